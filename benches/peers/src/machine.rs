//! The machine and the day of the figures, and the versions of all contenders.

use std::thread;

use jiff::Timestamp;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// The lock file that this program was built with.
const LOCK: &str = include_str!("../Cargo.lock");

/// Crates whose versions matter, as the lock file spells them.
const CRATES: [&str; 12] = [
    "fanout",
    "crossbeam-channel",
    "flume",
    "tokio",
    "async-channel",
    "async-broadcast",
    "bus",
    "globset",
    "kameo",
    "kameo_actors",
    "glob",
    "redis",
];

pub struct Machine {
    pub date: String,
    /// Names of facts, and the facts.
    pub facts: Vec<(&'static str, String)>,
}

impl Machine {
    pub fn look(redis_server: Option<&str>) -> Self {
        // Each fact may be hidden from us; a table without it is still one.
        let system = System::new_with_specifics(
            RefreshKind::nothing()
                .with_cpu(CpuRefreshKind::nothing())
                .with_memory(MemoryRefreshKind::everything()),
        )
        .ok();
        let or_unknown = |fact: Option<String>| {
            fact.filter(|fact| !fact.is_empty()).unwrap_or_else(|| "unknown".to_owned())
        };
        let cpu = system.as_ref().and_then(|system| system.cpus().first());
        let memory = system.as_ref().map(|system| system.total_memory() as f64);
        let memory = memory.map(|bytes| format!("{:.1} GiB", bytes / f64::from(1_u32 << 30)));
        let os = or_unknown(System::long_os_version().ok());
        let kernel = or_unknown(System::kernel_version().ok());
        let load = System::load_average().ok();
        let load = load.map(|load| format!("{:.1} (average of a minute)", load.one));
        let versions = CRATES
            .iter()
            .map(|name| format!("{name} {}", version_of(name)))
            .chain([format!("redis-server {}", redis_server.unwrap_or("not installed"))]);
        Self {
            date: Timestamp::now().strftime("%Y-%m-%d").to_string(),
            facts: vec![
                ("processor", or_unknown(cpu.map(|cpu| cpu.brand().trim().to_owned()))),
                (
                    "cores",
                    or_unknown(thread::available_parallelism().ok().map(|cores| cores.to_string())),
                ),
                ("memory", or_unknown(memory)),
                ("system", format!("{os}, kernel {kernel}")),
                ("load when it began", or_unknown(load)),
                ("compiler", env!("PEERS_RUSTC").to_owned() + ", cargo's release profile"),
                ("versions", versions.collect::<Vec<_>>().join(", ")),
            ],
        }
    }
}

/// Returns the version of a crate by the lock file, in which a version follows its name.
fn version_of(name: &str) -> &'static str {
    let named = format!("name = \"{name}\"");
    LOCK.lines()
        .skip_while(|line| **line != named)
        .nth(1)
        .and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
        .unwrap_or("of unknown version")
}
