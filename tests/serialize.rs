//! Feature `serde`: settings from configuration files, and events, messages and figures for others to read.
#![cfg(feature = "serde")]

use std::time::Duration;

use fanout::{Bus, Event, Limits, Message, Overflow, Pattern};
use serde::Deserialize;
use serde_json::{Value, from_value, json, to_value};

fn round_trips<T>(value: T, as_json: Value)
where
    T: serde::Serialize + for<'de> Deserialize<'de> + PartialEq + std::fmt::Debug,
{
    assert_eq!(to_value(&value).unwrap(), as_json);
    assert_eq!(from_value::<T>(as_json).unwrap(), value);
}

#[test]
fn policies_are_words_and_durations_human_text() {
    round_trips(Overflow::DropOldest, json!("drop_oldest"));
    round_trips(Overflow::DropNewest, json!("drop_newest"));
    round_trips(Overflow::Conflate, json!("conflate"));
    round_trips(Overflow::Disconnect, json!("disconnect"));
    let timeout = Some(Duration::from_millis(1_500));
    round_trips(Overflow::Block { timeout }, json!({"block": {"timeout": "1s 500ms"}}));
    round_trips(Overflow::Block { timeout: None }, json!({"block": {"timeout": null}}));
    let short = from_value::<Overflow>(json!({"block": {}})).unwrap();
    assert_eq!(short, Overflow::Block { timeout: None });
    for wrong in [json!("drop"), json!({"block": {"timeout": 5}}), json!({"block": {"time": "5s"}})]
    {
        assert!(from_value::<Overflow>(wrong.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn limits_that_are_not_set_are_left_out() {
    round_trips(Limits::default(), json!({}));
    let limits = Limits::default().max_channels(10).max_pattern_len(64);
    round_trips(limits, json!({"max_channels": 10, "max_pattern_len": 64}));
    assert!(from_value::<Limits>(json!({"max_chanels": 10})).is_err());
}

#[test]
fn a_pattern_is_its_text_and_names_its_dialect_if_it_is_a_glob() {
    round_trips(Pattern::redis("game:*"), json!("game:*"));
    assert_eq!(from_value::<Pattern>(json!({"redis": "a?"})).unwrap(), Pattern::redis("a?"));
    #[cfg(feature = "glob")]
    {
        round_trips(Pattern::glob("a/**").unwrap(), json!({"glob": "a/**"}));
        let error = from_value::<Pattern>(json!({"glob": "a["})).unwrap_err();
        assert!(error.to_string().contains("a["), "{error}");
    }
    for wrong in [json!({}), json!({"regex": "a"}), json!({"redis": "a", "glob": "b"}), json!(7)] {
        assert!(from_value::<Pattern>(wrong.clone()).is_err(), "{wrong}");
    }
}

#[test]
fn a_configuration_file_can_say_them() {
    #[derive(Deserialize)]
    struct Config {
        overflow: Overflow,
        limits: Limits,
        watch: Vec<Pattern>,
    }
    let text = r#"{
        "overflow": {"block": {"timeout": "2s"}},
        "limits": {"max_subscribers": 2},
        "watch": ["game:*", "user:*"]
    }"#;
    let config: Config = serde_json::from_str(text).unwrap();
    let bus: Bus = Bus::builder().overflow(config.overflow).limits(config.limits).build();
    let sub = bus.subscriber_builder().psubscribe_many(&config.watch).unwrap();
    assert_eq!(sub.patterns(), config.watch);
    assert_eq!(sub.info().overflow, Overflow::Block { timeout: Some(Duration::from_secs(2)) });
}

#[test]
fn events_are_named_as_redis_server_names_them() {
    let bus: Bus<u32> = Bus::builder().capacity(2).build();
    let sub = bus.subscribe("a").unwrap();
    sub.psubscribe("a*").unwrap();
    bus.publish("a", 1_u32);
    sub.unsubscribe("a");
    sub.punsubscribe("a*");
    let events: Vec<Value> = sub.try_iter().map(|event| to_value(event).unwrap()).collect();
    assert_eq!(
        events,
        [
            json!({"type": "subscribe", "channel": "a", "count": 1}),
            json!({"type": "psubscribe", "pattern": "a*", "count": 2}),
            json!({"type": "message", "channel": "a", "payload": 1}),
            json!({"type": "pmessage", "pattern": "a*", "channel": "a", "payload": 1}),
            json!({"type": "unsubscribe", "channel": "a", "count": 1}),
            json!({"type": "punsubscribe", "pattern": "a*", "count": 0}),
        ]
    );
    sub.subscribe("b").unwrap();
    (0..4_u32).for_each(|n| _ = bus.publish("b", n));
    let lagged: Event<u32> = sub.recv().unwrap();
    assert_eq!(to_value(lagged).unwrap(), json!({"type": "lagged", "missed": 2}));
    let message = Message::new("c", "text").with_pattern("c*");
    let expected = json!({"pattern": "c*", "channel": "c", "payload": "text"});
    assert_eq!(to_value(&message).unwrap(), expected);
}

#[test]
fn figures_have_the_names_of_their_fields() {
    let bus: Bus<u32> = Bus::new();
    let topic = bus.topic("a");
    let sub = bus.subscriber_builder().label("reader").subscribe("a").unwrap();
    let receipt = topic.publish(1_u32);
    let expected = json!({"matched": 1, "delivered": 1, "dropped": 0});
    assert_eq!(to_value(receipt).unwrap(), expected);
    let stats = to_value(bus.stats()).unwrap();
    assert_eq!((&stats["published"], &stats["subscribers"]), (&json!(1), &json!(1)));
    let info = to_value(sub.info()).unwrap();
    assert_eq!((&info["label"], &info["depth"]), (&json!("reader"), &json!(1)));
    assert_eq!(info["overflow"], json!("drop_oldest"));
    assert_eq!(to_value(topic.stats()).unwrap()["published"], json!(1));
    sub.close();
    assert_eq!(to_value(sub.close_reason()).unwrap(), json!("subscriber"));
}
