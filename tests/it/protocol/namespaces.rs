//! Namespaces beside the main one: entered and left, and nothing is said there.

use super::{Poller, Raw, node};

/// The id in a CONNECT reply of `/user`.
fn id(reply: &str) -> &str {
    let id = reply.strip_prefix(r#"40/user,{"sid":""#).and_then(|rest| rest.strip_suffix(r#""}"#));
    let id = id.unwrap_or_else(|| panic!("no reply of the namespace: {reply}"));
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    id
}

#[tokio::test]
async fn a_namespace_of_the_table_is_entered_and_left_beside_the_main_one() {
    let node = node().await;
    for connect in ["40/user,", r#"40/user,{"token":"123"}"#] {
        let mut raw = Raw::opened(&node).await;
        raw.send(connect).await;
        id(&raw.next_but_pings().await);
        raw.send(r#"42/user,7["user-message","x"]"#).await;
        let refused = raw.next_but_pings().await;
        assert!(refused.starts_with(r#"43/user,7[{"ok":false"#), "{refused}");
        assert!(refused.contains("namespace"), "{refused}");
        raw.send("41/user,").await;
        raw.send("40").await;
        assert!(raw.next_but_pings().await.starts_with("40{"), "the main one is another one");
        raw.send(r#"42["user-message","x"]"#).await;
        assert!(raw.next_but_pings().await.starts_with(r#"42["message","x""#));
    }
}

#[tokio::test]
async fn an_id_of_a_namespace_gives_no_access_to_the_session() {
    let node = node().await;
    let poller = Poller::open(&node).await;
    poller.post("40/user,").await;
    let reply = poller.poll().await.text();
    assert_ne!(id(&reply), poller.sid);
    poller.post("40").await;
    let both = poller.poll().await.text();
    assert!(both.starts_with("40{") && !both.contains(&poller.sid), "{both}");
}

#[tokio::test]
async fn an_unknown_namespace_is_refused_and_the_connection_lives() {
    let node = node().await;
    let mut raw = Raw::opened(&node).await;
    raw.send("40/random,").await;
    assert_eq!(raw.next_but_pings().await, r#"44/random,{"message":"Invalid namespace"}"#);
    raw.send("40").await;
    assert!(raw.next_but_pings().await.starts_with("40{"));
}
