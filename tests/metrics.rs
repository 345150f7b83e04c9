//! Feature `metrics`: what a page for Prometheus shows.
#![cfg(feature = "metrics")]

mod support;

use std::collections::HashMap;
use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use fanout::{Bus, Overflow};
use metrics_exporter_prometheus::PrometheusBuilder;
use prometheus_parse::{Scrape, Value};

/// Parses a page. Returns its samples by name and labels.
fn samples(page: &str) -> HashMap<(String, String), Value> {
    let scrape = Scrape::parse(page.lines().map(|line| Ok(line.to_owned()))).unwrap();
    let key = |sample: &prometheus_parse::Sample| {
        let mut labels: Vec<_> =
            sample.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        labels.sort_unstable();
        (sample.metric.clone(), labels.join(","))
    };
    // Rules of the format: every name has a type, counters end in `_total` and gauges do not, each series comes once.
    for sample in &scrape.samples {
        assert!(scrape.docs.contains_key(&sample.metric), "{} is described", sample.metric);
        let is_counter = matches!(sample.value, Value::Counter(_));
        assert!(is_counter || matches!(sample.value, Value::Gauge(_)), "{}", sample.metric);
        assert_eq!(is_counter, sample.metric.ends_with("_total"), "{}", sample.metric);
    }
    let count = scrape.samples.len();
    let samples: HashMap<_, _> =
        scrape.samples.into_iter().map(|sample| (key(&sample), sample.value)).collect();
    assert_eq!(samples.len(), count);
    samples
}

#[test]
fn the_figures_are_those_of_stats_and_of_labelled_subscribers() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let bus: Bus<u32> = Bus::new();
    let reader = bus.subscriber_builder().label("reader").capacity(2).subscribe("a").unwrap();
    let _nameless = bus.psubscribe("*").unwrap();
    (0..3_u32).for_each(|n| _ = bus.publish("a", n));
    reader.recv_message().unwrap();
    let newest = bus.subscriber_builder().label("newest").overflow(Overflow::Conflate);
    let newest = newest.subscribe("b").unwrap();
    (0..2_u32).for_each(|n| _ = bus.publish("b", n));
    metrics::with_local_recorder(&recorder, || bus.record_metrics());
    // Again: figures, not sums of them.
    metrics::with_local_recorder(&recorder, || bus.record_metrics());
    let page = recorder.handle().render();
    let samples = samples(&page);
    let of_bus = |name: &str| samples[&(name.to_owned(), String::new())].clone();
    assert_eq!(of_bus("fanout_published_total"), Value::Counter(5.0));
    assert_eq!(of_bus("fanout_delivered_total"), Value::Counter(10.0));
    assert_eq!(of_bus("fanout_conflated_total"), Value::Counter(1.0));
    assert_eq!(of_bus("fanout_evicted_total"), Value::Counter(1.0));
    assert_eq!(of_bus("fanout_subscribers"), Value::Gauge(3.0));
    assert_eq!(of_bus("fanout_patterns"), Value::Gauge(1.0));
    let of = |label: &str, id: u64, name: &str| {
        samples[&(name.to_owned(), format!("id={id},subscriber={label}"))].clone()
    };
    let of_reader = |name: &str| of("reader", reader.id(), name);
    assert_eq!(of_reader("fanout_inbox_depth"), Value::Gauge(1.0));
    assert_eq!(of_reader("fanout_inbox_capacity"), Value::Gauge(2.0));
    assert_eq!(of_reader("fanout_inbox_missed_total"), Value::Counter(1.0));
    assert_eq!(of_reader("fanout_inbox_received_total"), Value::Counter(1.0));
    assert_eq!(of_reader("fanout_inbox_conflated_total"), Value::Counter(0.0));
    let conflated = of("newest", newest.id(), "fanout_inbox_conflated_total");
    assert_eq!(conflated, Value::Counter(1.0));
    // The one without a label is in no series.
    let depths = samples.keys().filter(|(name, _)| name == "fanout_inbox_depth").count();
    assert_eq!(depths, 2);
}

#[test]
fn without_a_recorder_nothing_happens() {
    let bus: Bus = Bus::new();
    let _sub = bus.subscriber_builder().label("reader").subscribe("a").unwrap();
    bus.record_metrics();
}

#[test]
fn the_example_serves_a_page_that_parses() {
    // A test that is named alone has no examples built.
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--locked", "--example", "metrics", "--features", "metrics"]);
    assert!(build.status().unwrap().success());
    let example =
        env::current_exe().unwrap().parent().unwrap().join("../../debug/examples/metrics");
    let mut child =
        Command::new(example).args(["--port", "0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap();
    let fetch = |path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    };
    let missed = |page: &str| {
        let samples = samples(page);
        let is_it = |key: &&(String, String)| {
            key.0 == "fanout_inbox_missed_total" && key.1.ends_with("subscriber=slow")
        };
        let key = samples.keys().find(is_it).unwrap();
        matches!(samples[key], Value::Counter(missed) if missed > 0.0)
    };
    support::eventually("the slow one is seen", || {
        let (head, page) = fetch("/metrics");
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        missed(&page)
    });
    assert!(fetch("/other").0.starts_with("HTTP/1.1 404"));
    child.kill().unwrap();
    child.wait().unwrap();
}
