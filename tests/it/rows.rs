//! Every row of the built-in rule table: what comes live comes the same way from the log, whatever
//! the last event is that a client has.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use toml::de::DeTable;

use crate::harness::{
    away::Away,
    chat::{World, offset, own_id, plain, two_nodes, with_token},
    client::{Client, Options, Transport},
    node::Node,
    packet::Event,
    redis::{Keeps, Redis},
};

const BUILT_IN: &str = include_str!("../../src/dialects/events/builtin.toml");
/// Rows that stand in the table to refuse a message without a room.
const REFUSING: [(&str, usize); 2] = [("message", 1), ("send_message", 3)];

/// One event of a client, by the row that counts for it.
struct Case {
    row: (&'static str, usize),
    args: Value,
    /// The events that others are told, each with its arguments. `"$now"` is the message's time.
    told: Value,
    /// Whether the sender is told as well.
    to_sender: bool,
}

fn case(event: &'static str, row: usize, args: Value, told: Value, to_sender: bool) -> Case {
    Case { row: (event, row), args, told, to_sender }
}

/// A case for each row of the default profile that stores its event. The sender is remembered as
/// Ann in the attic, and the listener is there too.
fn cases(listener: &str, listeners_user: &str) -> Vec<Case> {
    let object = |field: &str, room: &str, text: &str| json!({ field: room, "message": text });
    let same = |event: &str, argument: &Value| json!([[event, argument]]);
    let (a, b, c) = ("send-message", "send_message", "receive_message");
    let one = object("roomId", "attic", "by roomId");
    let two = object("room", "attic", "by room");
    let three = object("roomId", "attic", "send_message by roomId");
    let mut four = object("room", "attic", "send_message by room");
    four["author"] = json!("Ann");
    let mut five = object("room", "attic", "back to its sender");
    five["__createdtime__"] = json!(1_700_000_000_000_u64);
    let six = json!({ "roomid": "attic", "msg": "msg_send in a room" });
    let seven = json!({ "msg": "msg_send for all" });
    let eight = json!({ "to": listener, "content": "to a connection" });
    let nine = json!({ "to": listeners_user, "content": "to a user" });
    let ten = object("roomId", "attic", "chatMessage by roomId");
    let id = format!("{listener}-1");
    let json_text = json!({ "message": "x" });
    let in_room = json!([{ "room": listener, "message": "to one id" }]);
    let to_one = json!([["receive-message", "to one id"], ["received-message", "to one id"]]);
    let in_attic = json!([{ "room": "attic", "message": { "text": "twice" } }]);
    let twice = json!([["receive-message", { "text": "twice" }], ["received-message", { "text": "twice" }]]);
    let signed = json!([["message", { "username": "Ann", "text": "signed", "time": "$now" }]]);
    let named = |text: &str| json!([["chat-message", { "message": text, "name": "Ann" }]]);
    vec![
        case("user-message", 0, json!(["classic"]), json!([["message", "classic"]]), true),
        case("user-message", 0, json!([{ "t": 1 }]), json!([["message", { "t": 1 }]]), true),
        case(
            "event:message",
            0,
            json!([json_text]),
            json!([["message", json_text.to_string()]]),
            true,
        ),
        case("event:message", 0, json!(["a \"b\""]), json!([["message", r#""a \"b\"""#]]), true),
        case(
            "chat message",
            0,
            json!(["get-started", id]),
            same("chat message", &json!("get-started")),
            true,
        ),
        case(a, 0, json!([one]), same("receive-message", &one), false),
        case(a, 1, json!([two]), same("receive-message", &two), false),
        case(a, 2, json!(["two", "attic"]), same("receive-message", &json!("two")), false),
        case(a, 2, json!(["for all", ""]), same("receive-message", &json!("for all")), false),
        case(b, 0, json!([five]), same(c, &five), true),
        case(b, 1, json!([three]), same(c, &three), false),
        case(b, 2, json!([four]), same(c, &four), false),
        case("msg_send", 0, json!([six]), same("msg_rcvd", &six), true),
        case("msg_send", 1, json!([seven]), same("msg_rcvd", &seven), true),
        case("message", 0, in_attic, twice, true),
        case("message", 0, in_room, to_one, false),
        case("message", 2, json!(["send()"]), json!([["message", "send()"]]), true),
        case("private message", 0, json!([eight]), same("private message", &eight), false),
        case("private-message", 0, json!([nine]), same("private-message", &nine), true),
        case("chatMessage", 0, json!([ten]), same("chatMessage", &ten), true),
        case("chatMessage", 1, json!(["signed"]), signed, true),
        case("send-chat-message", 0, json!(["attic", "with rooms"]), named("with rooms"), false),
        case("send-chat-message", 1, json!(["one chat"]), named("one chat"), false),
    ]
}

/// An event that was told: its room, its name and its arguments without the offset.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    room: String,
    event: Value,
    offset: String,
}

/// At least so many events that came, each without its offset and with it beside.
async fn got(client: &Client, count: usize) -> Vec<(Value, String)> {
    let split = |event: Event| {
        let offset = offset(&event);
        let arguments = event.args.split_last().map(|(_, arguments)| arguments);
        let mut all = vec![json!(event.name)];
        all.extend_from_slice(arguments.expect("a stored event has arguments"));
        (Value::Array(all), offset)
    };
    client.drained(count).await.into_iter().map(split).collect()
}

/// Every event in the order of its room, which is the only order that several partitions have.
fn by_room<'a>(told: impl IntoIterator<Item = &'a Told>) -> BTreeMap<&'a str, Vec<&'a Value>> {
    let mut rooms: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for told in told {
        rooms.entry(&told.room).or_default().push(&told.event);
    }
    rooms
}

fn sorted(events: &[&Value]) -> Vec<String> {
    let mut all: Vec<String> = events.iter().map(ToString::to_string).collect();
    all.sort();
    all
}

/// The rooms of events that were told before.
fn placed(got: Vec<(Value, String)>, known: &[Told]) -> Vec<Told> {
    let place = |(event, offset): (Value, String)| {
        let room = known.iter().find(|told| told.event == event);
        let room = room.unwrap_or_else(|| panic!("{event} was not told live")).room.clone();
        Told { room, event, offset }
    };
    got.into_iter().map(place).collect()
}

fn as_user(user: &str, transport: Transport) -> Options {
    Options::new(transport).auth(json!({ "token": user }))
}

/// Says all cases, and answers what the listener and the sender must be told.
async fn say_all(sender: &Client, cases: &[Case]) -> (Vec<Told>, Vec<Value>) {
    let (mut all, mut own) = (Vec::new(), Vec::new());
    for Case { row, args, told, to_sender } in cases {
        let ack = sender.request(row.0, args.as_array().expect("a list")).await;
        assert_eq!(ack["ok"], json!(true), "{row:?}: {ack}");
        let told = told.to_string().replace("\"$now\"", &ack["at"].to_string());
        let told: Vec<Value> = serde_json::from_str(&told).expect("a list of events");
        let room = ack["room"].as_str().expect("a room").to_owned();
        all.extend(told.iter().cloned().map(|event| Told {
            room: room.clone(),
            event,
            offset: String::new(),
        }));
        own.extend(told.into_iter().filter(|_| *to_sender));
    }
    (all, own)
}

async fn heard_the_same_after_any_event(nodes: &[Node], is_one_partition: bool) {
    let count = nodes.len();
    let by_turns = |turn: usize| Transport::ALL[turn % Transport::ALL.len()];
    let user = {
        let known = Client::connected(nodes[0].address, with_token("listener")).await;
        own_id(&known).await
    };
    let listener =
        Client::connected(nodes[0].address, as_user("listener", Transport::WebSocket)).await;
    let sender =
        Client::connected(nodes[count - 1].address, as_user("sender", Transport::WebSocket)).await;
    let ann = json!({ "username": "Ann", "name": "Ann", "room": "attic" });
    for (client, me) in [(&listener, json!("attic")), (&sender, ann)] {
        let joined = client.request("joinRoom", &[me]).await;
        assert_eq!(joined["ok"], json!(true), "{joined}");
    }
    let cases = cases(&listener.public_id(), &user);
    let (told, own) = say_all(&sender, &cases).await;
    let rooms: BTreeSet<&str> = told.iter().map(|told| told.room.as_str()).collect();
    assert_eq!(rooms.len(), 4, "{rooms:?}");
    let live = placed(got(&listener, told.len()).await, &told);
    assert_eq!(by_room(&live), by_room(&told));
    assert_eq!(live.len(), told.len());
    if is_one_partition {
        assert!(live.iter().map(|told| &told.event).eq(told.iter().map(|told| &told.event)));
    }
    let heard = got(&sender, own.len()).await;
    let events: Vec<&Value> = heard.iter().map(|(event, _)| event).collect();
    assert_eq!(sorted(&events), sorted(&own.iter().collect::<Vec<_>>()));
    if is_one_partition {
        // What its sender is not told live, no replay tells it either.
        let mut away = Away::of(sender, None).await;
        away.offset = heard.first().map(|(_, offset)| offset.clone());
        let again = away.recovered(&nodes[0], as_user("sender", Transport::WebSocket)).await;
        let replayed = got(&again, own.len() - 1).await;
        assert_eq!(replayed, heard.split_first().expect("one").1);
    }

    let mut away = Away::of(listener, None).await;
    for had in 0..=live.len() {
        let (seen, missed) = live.split_at(had);
        away.offset = seen.last().map(|told| told.offset.clone());
        let again = away.recovered(&nodes[had % count], as_user("listener", by_turns(had))).await;
        let replayed = placed(got(&again, missed.len()).await, &live);
        assert_eq!(by_room(&replayed), by_room(missed), "after event {had}: {:?}", seen.last());
        again.reset().await;
        // The connection is lost once more, within the replay.
        for more in 1..=replayed.len() {
            let (seen, missed) = replayed.split_at(more);
            away.offset = seen.last().map(|told| told.offset.clone());
            let again =
                away.recovered(&nodes[more % count], as_user("listener", by_turns(more))).await;
            let rest = placed(got(&again, missed.len()).await, &live);
            let offset = &away.offset;
            assert_eq!(by_room(&rest), by_room(missed), "{more} after event {had}: {offset:?}");
            again.reset().await;
        }
    }
}

#[tokio::test]
async fn a_replay_tells_the_same_events_after_any_last_event() {
    for world in World::both().await {
        heard_the_same_after_any_event(&world.nodes, true).await;
    }
}

#[tokio::test]
async fn with_partitions_a_replay_tells_the_same_events_after_any_last_event() {
    let redis = Redis::start(Keeps::Nothing).await;
    let nodes = two_nodes(&redis, &["--partitions", "4"]).await;
    heard_the_same_after_any_event(&nodes, false).await;
}

#[test]
fn the_cases_are_all_rows_that_store() {
    let table = DeTable::parse(BUILT_IN).expect("it is TOML");
    let on = table.get_ref()["on"].get_ref().as_table().expect("a table");
    let mut rows = BTreeSet::new();
    for (event, value) in on {
        let one = std::slice::from_ref(value);
        let all = value.get_ref().as_array().map_or(one, |rows| rows);
        for (number, row) in all.iter().enumerate() {
            let row = row.get_ref().as_table().expect("a row");
            let keeps = row.get("keep").is_none_or(|keep| keep.get_ref().as_bool() == Some(true));
            if row.contains_key("out") && keeps {
                rows.insert((event.get_ref().to_string(), number));
            }
        }
    }
    let tried = cases("", "").into_iter().map(|case| case.row).chain(REFUSING);
    let tried: BTreeSet<_> = tried.map(|(event, row)| (event.to_owned(), row)).collect();
    assert_eq!(tried, rows);
}

#[tokio::test]
async fn a_message_without_its_room_is_refused() {
    let node = Node::memory().await;
    let client = plain(&node, Transport::WebSocket).await;
    for (event, args) in [
        ("message", json!([{ "message": "to nobody", "room": "" }])),
        ("message", json!([{ "message": "to nobody" }])),
        ("send_message", json!([{ "message": "to nobody", "room": null }])),
        ("send_message", json!(["to nobody"])),
        ("send-message", json!([{ "roomId": [], "message": "x" }])),
        ("private message", json!([{ "content": "to nobody" }])),
        ("private-message", json!([{ "content": "to nobody", "to": "" }])),
        ("chatMessage", json!(["never joined"])),
        ("join_room", json!([""])),
        ("join_room", json!([{}])),
        ("leave_room", json!([null])),
    ] {
        let ack = client.request(event, args.as_array().expect("a list")).await;
        assert_eq!(ack["error"]["code"], json!("bad_request"), "{event} {args}: {ack}");
    }
    let nobody = json!({ "to": "0".repeat(32), "content": "x" });
    let ack = client.request("private message", &[nobody]).await;
    assert_eq!(ack["error"]["code"], json!("not_found"), "{ack}");
    assert_eq!(got(&client, 0).await, []);
    let page = client.request("history", &[json!({ "room": "lobby" })]).await;
    assert_eq!(page["messages"], json!([]), "{page}");
}
