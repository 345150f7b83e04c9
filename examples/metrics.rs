//! A page for Prometheus: what the bus does, and which subscriber is slow.
//!
//! ```text
//! cargo run --release --features metrics --example metrics
//! curl http://127.0.0.1:9100/metrics
//! ```
//!
//! A load of its own is published: one subscriber keeps up, one is too slow. The figures are taken when the page is
//! asked for; publishing costs the same with them and without.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use clap::Parser;
use fanout::{Bus, Event};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Serves the figures of a bus for Prometheus.
#[derive(Parser)]
struct Args {
    /// The port of the page, on this machine; 0 for any
    #[arg(long, default_value_t = 9100)]
    port: u16,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let recorder = PrometheusBuilder::new().install_recorder()?;
    let bus: Bus = Bus::new();

    // Only subscribers with a label have figures of their own.
    let quick = bus.subscriber_builder().label("quick").psubscribe("ticks:*")?;
    quick.spawn("quick", |_| ()).detach();
    let slow = bus.subscriber_builder().label("slow").capacity(64).psubscribe("ticks:*")?;
    let handle = |event: Event| {
        // Only for messages: one that slept for each `Lagged`, too, would get nothing else.
        if event.message().is_some() {
            thread::sleep(Duration::from_millis(5));
        }
    };
    slow.spawn("slow", handle).detach();
    let publisher = bus.clone();
    thread::spawn(move || {
        for number in 0_u64.. {
            publisher.publish(&format!("ticks:{}", number % 10), number.to_string());
            thread::sleep(Duration::from_millis(1));
        }
    });

    let page = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, args.port)))?;
    println!("http://{}/metrics", page.local_addr()?);
    for visitor in page.incoming() {
        // One that hangs up early is no reason to end.
        if let Err(error) = serve(visitor?, &bus, &recorder) {
            eprintln!("{error}");
        }
    }
    Ok(())
}

fn serve(mut visitor: TcpStream, bus: &Bus, recorder: &PrometheusHandle) -> io::Result<()> {
    visitor.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = String::new();
    let mut lines = BufReader::new(visitor.try_clone()?);
    lines.read_line(&mut request)?;
    // The rest of the request, up to the empty line.
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 && !line.trim().is_empty() {
        line.clear();
    }
    let (status, body) = if request.starts_with("GET /metrics ") {
        bus.record_metrics();
        ("200 OK", recorder.render())
    } else {
        ("404 Not Found", String::new())
    };
    write!(
        visitor,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}
