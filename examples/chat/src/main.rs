//! Serves the chat: `cargo run --release`, then open <http://127.0.0.1:3000>.

use std::net::SocketAddr;

use anyhow::Context;
use clap::Parser;
use fanout::{Bus, Limits};
use fanout_chat::{Payload, router};
use tokio::net::TcpListener;
use tokio::runtime::Builder;

/// Serves chat rooms to browsers.
#[derive(Parser)]
struct Args {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:3000")]
    listen: SocketAddr,

    /// Threads that run the clients' tasks
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    workers: u16,

    /// Lines that may wait for one client before the oldest are lost
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    capacity: u32,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // A client takes a file descriptor. Where the limit cannot be raised, fewer come in.
    _ = rlimit::increase_nofile_limit(u64::MAX);
    let bus: Bus<Payload> = Bus::builder()
        .capacity(args.capacity as usize)
        .limits(Limits::default().max_channels(10_000))
        .build();
    let runtime = Builder::new_multi_thread()
        .worker_threads(args.workers.into())
        .enable_io()
        .build()
        .context("the runtime does not start")?;
    runtime.block_on(async {
        let listener = TcpListener::bind(args.listen)
            .await
            .with_context(|| format!("{} is not free", args.listen))?;
        println!("http://{}", listener.local_addr()?);
        let closing = bus.clone();
        let interrupted = async move {
            _ = tokio::signal::ctrl_c().await;
            // Ends each client's stream, and with it its connection.
            closing.close();
        };
        axum::serve(listener, router(bus)).with_graceful_shutdown(interrupted).await?;
        Ok(())
    })
}
