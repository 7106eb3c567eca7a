//! Recovery where the log has several partitions: an offset says where a client is in all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::harness::{
    PATIENCE,
    away::Away,
    chat::{join, native, offset, send, two_nodes},
    checker::JoinResult,
    client::{Client, Transport},
    diary::{Diary, Pages},
    eventually,
    node::Node,
    official::{Official, Officials},
    packet::Event,
    proxy::Proxy,
    reconnecting::{Dialect, Phase},
    redis::{Keeps, Redis},
};

const PARTITIONS: [&str; 2] = ["--partitions", "4"];

/// Rooms of three partitions, which have an epoch each.
async fn rooms_of_three(talker: &Client) -> Vec<String> {
    let mut epochs = BTreeSet::new();
    let mut rooms = Vec::new();
    for number in 0..64 {
        let room = format!("room {number}");
        let joined = join(talker, &room, None).await;
        if epochs.insert(joined["epoch"].to_string()) {
            rooms.push(room);
        }
    }
    assert_eq!(epochs.len(), 4, "64 rooms are not in all four partitions");
    rooms.truncate(3);
    rooms
}

async fn talker(node: &Node) -> Client {
    Client::connected(node.address, native(Transport::WebSocket)).await
}

/// Room and text of each message.
fn said(events: &[Event]) -> Vec<(String, u64)> {
    let said = events.iter().map(|event| {
        let message = event.arg(0);
        let text = message["text"].as_str().expect("text").parse().expect("a number");
        (message["room"].as_str().expect("a room").to_owned(), text)
    });
    said.collect()
}

/// What was said in each room, in order.
fn by_room(said: Vec<(String, u64)>) -> BTreeMap<String, Vec<u64>> {
    let mut rooms: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (room, text) in said {
        rooms.entry(room).or_default().push(text);
    }
    rooms
}

/// Says each number in one of the rooms, by turns that are not even.
async fn speak(talker: &Client, rooms: &[String], numbers: std::ops::Range<u64>) {
    for number in numbers {
        let at = usize::try_from(number * number % 7).expect("small") % rooms.len();
        assert_eq!(send(talker, &rooms[at], &number.to_string()).await["ok"], json!(true));
    }
}

#[tokio::test]
async fn a_client_gets_the_rest_once_after_any_last_event() {
    const MISSED: u64 = 12;
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &PARTITIONS).await;
    let talker = talker(&nodes[1]).await;
    let rooms = rooms_of_three(&talker).await;
    for transport in [Transport::WebSocket, Transport::Polling] {
        let mut client = Client::connected(nodes[0].address, native(transport)).await;
        for room in &rooms {
            assert_eq!(join(&client, room, None).await["ok"], json!(true));
        }
        speak(&talker, &rooms, 0..8).await;
        let live = client.collect("message", 8).await;
        let mut last = live.last().cloned();
        // What is heard live from one node, and then the replay of the other, and so on: each time
        // the connection is lost after one more event of the replay.
        for turn in 0..MISSED {
            let away = Away::of(client, last.as_ref()).await;
            speak(&talker, &rooms, 0..MISSED).await;
            client = away.recovered(&nodes[1], native(transport)).await;
            let told = client.collect("message", usize::try_from(MISSED).expect("small")).await;
            let whole = by_room(said(&told));
            assert_eq!(whole.values().map(Vec::len).sum::<usize>(), 12, "{whole:?}");
            assert!(whole.values().all(|texts| texts.is_sorted()), "{whole:?}");
            let (had, rest) = told.split_at(usize::try_from(turn).expect("small") + 1);
            let away = Away::of(client, had.last()).await;
            client = away.recovered(&nodes[0], native(transport)).await;
            let again = client.collect("message", rest.len()).await;
            let all = [said(had), said(&again)].concat();
            assert_eq!(by_room(all), whole, "after event {turn} of the replay");
            assert!(client.drain().iter().all(|event| event.name != "message"), "told twice");
            last = again.last().or(had.last()).cloned();
        }
        // And live again.
        speak(&talker, &rooms, 0..8).await;
        assert_eq!(by_room(said(&client.collect("message", 8).await)).len(), 3);
    }
}

#[tokio::test]
async fn a_client_that_comes_back_among_messages_misses_none() {
    const TALKERS: u64 = 8;
    const EACH: u64 = 250;
    const COUNT: usize = 2_000;
    const TURNS: usize = 40;
    let _turn = crate::harness::serial().await;
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &PARTITIONS).await;
    let first = talker(&nodes[1]).await;
    let rooms = rooms_of_three(&first).await;
    let mut talkers = Vec::new();
    for _ in 0..TALKERS {
        talkers.push(talker(&nodes[1]).await);
    }
    let witness = talker(&nodes[0]).await;
    let mut client = talker(&nodes[0]).await;
    for one in talkers.iter().chain([&witness, &client]) {
        for room in &rooms {
            assert_eq!(join(one, room, None).await["ok"], json!(true));
        }
    }
    let speaking = join_all((0..).zip(&talkers).map(|(at, talker)| {
        let numbers = at * EACH..(at + 1) * EACH;
        speak(talker, &rooms, numbers)
    }));
    let listening = async {
        let mut heard = Vec::new();
        for turn in 1..=TURNS {
            while heard.len() < turn * COUNT / TURNS / 2 {
                heard.push(client.next("message").await);
            }
            let away = Away::of(client, heard.last()).await;
            client = away.recovered(&nodes[turn % 2], native(Transport::WebSocket)).await;
        }
        heard.extend(client.collect("message", COUNT - heard.len()).await);
        heard
    };
    let (_, heard) = tokio::join!(speaking, listening);
    let truth = by_room(said(&witness.collect("message", COUNT).await));
    assert_eq!(by_room(said(&heard)), truth);
}

#[tokio::test]
async fn an_offset_of_other_epochs_begins_a_new_session() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &PARTITIONS).await;
    let talker = talker(&nodes[1]).await;
    let rooms = rooms_of_three(&talker).await;
    for wrong in [true, false] {
        let client = Client::connected(nodes[0].address, native(Transport::WebSocket)).await;
        for room in &rooms {
            join(&client, room, None).await;
        }
        speak(&talker, &rooms, 0..1).await;
        let last = client.next("message").await;
        let own = offset(&last);
        let mut away = Away::of(client, Some(&last)).await;
        let (digest, seqs) = own.rsplit_once('-').expect("a digest and numbers");
        assert_eq!(seqs.split('_').count(), 4, "{own}");
        if wrong {
            let other = if digest.starts_with('0') { "1" } else { "0" };
            away.offset = Some(format!("{other}{}", own.split_at(1).1));
            away.begins_anew(&nodes[1], native(Transport::WebSocket)).await;
        } else {
            away.recovered(&nodes[1], native(Transport::WebSocket)).await;
        }
    }
}

#[tokio::test]
async fn an_official_client_in_rooms_of_three_partitions_is_recovered() {
    const COUNT: u64 = 30;
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &PARTITIONS).await;
    let talker = talker(&nodes[1]).await;
    let rooms = rooms_of_three(&talker).await;
    let proxy = Proxy::start(nodes[0].address).await;
    let clock = Instant::now();
    let diary = Diary::new("olga".to_owned(), clock, &rooms);
    let olga = Official {
        name: "olga".to_owned(),
        server: proxy.address,
        transports: &["websocket"],
        retries: false,
        dialect: Dialect::Native,
        rooms: rooms.clone(),
        diary: diary.clone(),
    };
    let (_phase, phase) = watch::channel(Phase::Talk);
    // It says something of its own rarely.
    let _officials = Officials::start(vec![olga], 600_000, clock, phase).await;
    let when = async |what: &str, is_so: &dyn Fn(&Pages) -> bool| {
        eventually(what, PATIENCE, async || is_so(&diary.read()).then_some(())).await;
    };
    when("it is in its rooms", &Pages::is_in).await;
    let say = async |number: u64| {
        let text = json!({ "id": number.to_string(), "at": 0 }).to_string();
        let at = usize::try_from(number * number % 7).expect("small") % rooms.len();
        assert_eq!(send(&talker, &rooms[at], &text).await["ok"], json!(true));
        at
    };
    let mut order: Vec<Vec<u64>> = vec![Vec::new(); rooms.len()];
    for number in 0..COUNT {
        let is_cut = number % 10 == 5;
        if is_cut {
            when("it has an offset", &Pages::is_hearing).await;
            proxy.redirect(nodes[usize::from(number % 20 == 5)].address);
            proxy.cut();
        }
        order[say(number).await].push(number);
        if number % 10 == 9 {
            let all = usize::try_from(number + 1).expect("small");
            when("it has heard all", &|pages| {
                pages.lives.last().is_some_and(|life| life.heard.len() >= all)
            })
            .await;
        }
    }
    let pages = diary.read();
    assert_eq!((pages.lives.len(), pages.recovered), (1, 3), "{:?}", pages.broken);
    let heard = pages.lives[0].heard.iter().map(|heard| match heard {
        JoinResult::Message { id, .. } => id.parse::<u64>().expect("a number"),
        other => panic!("{other:?}"),
    });
    let heard: Vec<u64> = heard.collect();
    assert_eq!(heard.len(), usize::try_from(COUNT).expect("small"), "{heard:?}");
    for said in order {
        let here: Vec<u64> = heard.iter().copied().filter(|number| said.contains(number)).collect();
        assert_eq!(here, said);
    }
}

/// More partitions than an offset has place for: a client is told that it begins anew.
#[tokio::test]
async fn with_more_than_eight_partitions_a_client_in_several_begins_a_new_session() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &["--partitions", "9"]).await;
    let talker = talker(&nodes[1]).await;
    let client = Client::connected(nodes[0].address, native(Transport::WebSocket)).await;
    let rooms: Vec<String> = (0..16).map(|number| format!("room {number}")).collect();
    for room in &rooms {
        join(&client, room, None).await;
        join(&talker, room, None).await;
    }
    send(&talker, &rooms[0], "0").await;
    let last = client.next("message").await;
    assert!(last.args.last().and_then(Value::as_str).is_some_and(|own| !own.contains('_')));
    let away = Away::of(client, Some(&last)).await;
    away.begins_anew(&nodes[1], native(Transport::WebSocket)).await;
}
