//! The server as a process of its own, on a free port.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

pub struct Server {
    process: Child,
    /// Host and port.
    pub address: String,
}

impl Server {
    pub fn start(args: &[&str]) -> Self {
        let listens = args.contains(&"--listen");
        let mut process = Command::new(env!("CARGO_BIN_EXE_fanout-chat"))
            .args(if listens { &[][..] } else { &["--listen", "127.0.0.1:0"] })
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        let output = process.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("it prints its address");
        let address = line.trim().strip_prefix("http://").expect("an address").to_owned();
        Self { process, address }
    }

    /// Returns the number of its threads.
    #[allow(dead_code)]
    pub fn threads(&self) -> usize {
        let path = format!("/proc/{}/status", self.process.id());
        let status = fs::read_to_string(path).expect("it runs");
        let threads = status.lines().find_map(|line| line.strip_prefix("Threads:"));
        threads.expect("its threads are listed").trim().parse().expect("a number")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}
