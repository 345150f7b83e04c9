//! Checks what the compiler inlined on the hot path.

use std::error::Error;
use std::{env, fs};

use object::{Object, ObjectSymbol};

/// crossbeam's inner functions of one delivery. Each is called by `try_send` or `try_recv`, and is inlined there as
/// long as it has no other caller. One use of `send`, `recv` or `select!` on the same channel type anywhere ends that,
/// and all deliveries then take half as long again.
const HOT: [&str; 4] = ["start_send", "start_recv", "write", "read"];

/// Panics if one of crossbeam's hot functions is a function of its own in this program.
///
/// Prints a note if the program has no symbols.
pub fn check() {
    match left() {
        Ok(left) if left.is_empty() => {
            println!("\nInlined, each into its one caller: {}", HOT.join(", "));
        }
        Ok(left) => panic!("on the hot path, and not inlined: {left:?}"),
        Err(error) => println!("\nWhat is inlined was not looked at: {error}"),
    }
}

/// Returns those of `HOT` that are functions of their own.
fn left() -> Result<Vec<String>, Box<dyn Error>> {
    let program = fs::read(env::current_exe()?)?;
    let program = object::File::parse(&*program)?;
    let names: Vec<String> = program
        .symbols()
        .filter_map(|symbol| Some(format!("{:#}", rustc_demangle::demangle(symbol.name().ok()?))))
        .filter(|name| name.contains("crossbeam_channel") && name.contains("flavors::array"))
        .collect();
    if !names.iter().any(|name| name.ends_with("::try_send")) {
        return Err("this program's symbols do not show crossbeam's functions".into());
    }
    let is_hot = |name: &String| {
        let function = name.rsplit("::").next().unwrap_or_default();
        HOT.contains(&function) && !name.contains(" as ")
    };
    Ok(names.into_iter().filter(is_hot).collect())
}
