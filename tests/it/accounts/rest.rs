//! REST: sign up, log in, log out, pictures, and who may do what.

use super::*;

#[tokio::test]
async fn an_account_signs_up_logs_in_and_out() {
    for nodes in Worlds::start().await.all {
        let (here, there) = (&nodes[0], &nodes[nodes.len() - 1]);
        let new = json!({ "fullName": "Ann É", "email": "Ann@Example.org", "password": "secret1" });
        let answer = call(here, None, "POST", "/api/auth/signup", Some(&new)).await;
        let account = read(&answer);
        assert_eq!(answer.status, 201, "{account}");
        assert_eq!((&account["fullName"], &account["profilePic"]), (&json!("Ann É"), &json!("")));
        assert_eq!(account["email"], "ann@example.org");
        assert!(!answer.text().contains("argon2"), "the hash stays here");
        let id = account["_id"].as_str().expect("an id");
        assert!(id.len() == 24 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        let set = answer.header("set-cookie").expect("a cookie");
        for part in ["jwt=", "; HttpOnly", "; SameSite=Strict", "; Max-Age=604800", "; Path=/"] {
            assert!(set.contains(part), "{set}");
        }
        assert!(!set.contains("Secure"), "over http: {set}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));

        let checked = call(there, Some(&cookie(&answer)), "GET", "/api/auth/check", None).await;
        assert_eq!((checked.status, read(&checked)), (200, account.clone()));
        let login = json!({ "email": " ANN@example.org", "password": "secret1" });
        let logged_in = call(there, None, "POST", "/api/auth/login", Some(&login)).await;
        assert_eq!((logged_in.status, read(&logged_in)), (200, account));
        let token = cookie(&logged_in).replace("jwt=", "Bearer ");
        let mut http = Http::open(here.address).await.expect("loopback works");
        let bearer = [("Authorization", token.as_str())];
        let checked = http.request("GET", "/api/auth/check", &bearer, b"").await;
        assert_eq!(checked.expect("an answer").status, 200);

        let out = call(here, None, "POST", "/api/auth/logout", None).await;
        assert_eq!(
            (out.status, read(&out)),
            (200, json!({ "message": "Logged out successfully" }))
        );
        let set = out.header("set-cookie").expect("a cookie");
        assert!(set.starts_with("jwt=;") && set.contains("Max-Age=0"), "{set}");
    }
}

#[tokio::test]
async fn over_https_the_cookie_is_secure() {
    let node = Node::start(&["--data", "memory", "--accounts", "on"]).await;
    let mut http = Http::open(node.address).await.expect("loopback works");
    let headers = [("Content-Type", "application/json"), ("X-Forwarded-Proto", "https")];
    let body = br#"{"fullName":"Ann","email":"a@b","password":"secret1"}"#;
    let answer = http.request("POST", "/api/auth/signup", &headers, body).await;
    let answer = answer.expect("an answer");
    assert!(answer.header("set-cookie").expect("a cookie").ends_with("; Secure"));
}

#[tokio::test]
async fn of_two_sign_ups_at_one_moment_one_succeeds() {
    for nodes in Worlds::start().await.all {
        let (here, there) = (&nodes[0], &nodes[nodes.len() - 1]);
        let new = |email: &str| json!({ "fullName": "A", "email": email, "password": "secret1" });
        let (one, other) = (new("Same@example.org"), new("same@example.org"));
        let (one, other) = tokio::join!(
            call(here, None, "POST", "/api/auth/signup", Some(&one)),
            call(there, None, "POST", "/api/auth/signup", Some(&other)),
        );
        let mut statuses = [one.status, other.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 400], "{} {}", one.text(), other.text());
        let refused = if one.status == 400 { one } else { other };
        assert_eq!(read(&refused)["message"], "Email already exists");
        assert!(refused.header("set-cookie").is_none());
    }
}

#[tokio::test]
async fn what_is_wrong_is_said_as_message_and_as_error() {
    let node = Node::start(&["--data", "memory", "--accounts", "on"]).await;
    let ann = Browser::sign_up(&node, "ann").await;
    let (signup, login) = ("/api/auth/signup", "/api/auth/login");
    for (path, body, said) in [
        (signup, json!({}), "All fields are required"),
        (signup, json!({ "fullName": "A", "email": "a@b", "password": "" }), "All fields"),
        (signup, json!({ "fullName": 7, "email": "a@b", "password": "secret1" }), "fullName is"),
        (signup, json!({ "fullName": "A", "email": ["a@b"], "password": "secret1" }), "email is"),
        (signup, json!({ "fullName": "A", "email": "a@b", "password": { "$ne": 1 } }), "password"),
        (signup, json!({ "fullName": "A", "email": "nobody", "password": "secret1" }), "email"),
        (signup, json!({ "fullName": "A", "email": "a@b", "password": "12345" }), "at least 6"),
        (
            signup,
            json!({ "fullName": "x".repeat(41), "email": "a@b", "password": "secret1" }),
            "40 characters",
        ),
        (signup, json!([]), "JSON object"),
        (login, json!({ "email": "ann@example.org", "password": "secret2" }), "Invalid cred"),
        (login, json!({ "email": "bob@example.org", "password": "secret1" }), "Invalid cred"),
        (login, json!({ "email": "ann@example.org" }), "required"),
        (login, json!({ "email": { "$gt": "" }, "password": "secret1" }), "email is text"),
    ] {
        let answer = call(&node, None, "POST", path, Some(&body)).await;
        let told = read(&answer);
        assert_eq!(answer.status, 400, "{body}: {told}");
        assert!(told["message"].as_str().expect("text").contains(said), "{body}: {told}");
        assert_eq!(told["message"], told["error"]);
    }
    let long = json!({ "email": "x".repeat(100_000), "password": "secret1" });
    assert_eq!(call(&node, None, "POST", login, Some(&long)).await.status, 413);
    let mut http = Http::open(node.address).await.expect("loopback works");
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    for headers in [&form[..], &[]] {
        let answer = http.request("POST", login, headers, b"{}").await.expect("an answer");
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    let (status, told) = ann.send(&node, &ann.id, &json!({})).await;
    assert_eq!((status, &told["error"]), (400, &json!("a message has text or an image")));
    let (status, _) = ann.send(&node, "0123456789abcdef01234567", &json!({ "text": "hi" })).await;
    assert_eq!(status, 404);
    let unknown = ann.get(&node, "/api/messages/0123456789abcdef01234567").await;
    assert_eq!((unknown.0, &unknown.1["message"]), (404, &json!("User not found")));
    for (method, path) in [
        ("GET", "/api/auth/check"),
        ("PUT", "/api/auth/update-profile"),
        ("GET", "/api/messages/users"),
        ("GET", "/api/messages/0123456789abcdef01234567"),
        ("POST", "/api/messages/send/0123456789abcdef01234567"),
    ] {
        let forged = format!("{}0", ann.cookie);
        for cookie in [None, Some("jwt="), Some("jwt=v1.a.9999999999.00"), Some(forged.as_str())] {
            let answer = call(&node, cookie, method, path, Some(&json!({}))).await;
            assert_eq!(answer.status, 401, "{method} {path} {cookie:?}");
            assert!(read(&answer)["message"].is_string());
        }
    }
}

#[tokio::test]
async fn a_picture_is_checked_and_served_as_a_file() {
    for nodes in Worlds::start().await.all {
        let (here, there) = (&nodes[0], &nodes[nodes.len() - 1]);
        let (ann, bob) = (Browser::sign_up(here, "ann").await, Browser::sign_up(here, "bob").await);
        let update = async |picture: Value| {
            let body = json!({ "profilePic": picture });
            let path = "/api/auth/update-profile";
            let answer = call(here, Some(&ann.cookie), "PUT", path, Some(&body)).await;
            (answer.status, read(&answer))
        };
        let (status, account) = update(data_url("svg+xml", PNG).into()).await;
        assert_eq!(status, 200, "{account}");
        let url = account["profilePic"].as_str().expect("a URL").to_owned();
        assert!(url.starts_with("/api/pictures/") && url.ends_with(".png"), "{url}");
        assert_eq!(ann.get(there, "/api/auth/check").await, (200, account.clone()));
        let file = there.get(&url).await;
        assert_eq!((file.status, file.body.as_slice()), (200, PNG));
        assert_eq!(file.header("content-type"), Some("image/png"));
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
        let cache = file.header("cache-control").expect("a header");
        assert!(cache.contains("immutable"), "{cache}");
        assert_eq!(there.get("/api/pictures/none.png").await.status, 404);

        let (_, listed) = bob.get(there, "/api/messages/users").await;
        let listed = listed.as_array().expect("a list");
        assert_eq!(listed.len(), 1, "without the one who asks");
        assert_eq!((&listed[0]["_id"], &listed[0]["profilePic"]), (&json!(ann.id), &json!(url)));
        assert_eq!(listed[0]["email"], Value::Null, "an address is its owner's");

        let mut large = PNG.to_vec();
        large.resize((1 << 20) + 1, 0);
        for (picture, status) in [
            (json!(""), 400),
            (json!(7), 400),
            (json!("https://example.org/a.png"), 400),
            (json!(data_url("png", b"<svg onload=alert(1)>")), 400),
            (json!(data_url("png", &large)), 413),
        ] {
            let shown = picture.to_string().chars().take(60).collect::<String>();
            let (told, answer) = update(picture).await;
            assert_eq!(told, status, "{shown}: {answer}");
            assert!(answer["message"].is_string() && answer["error"].is_string());
        }
        large.resize(3 << 20, 0);
        assert_eq!(update(data_url("png", &large).into()).await.0, 413);
        assert_eq!(ann.get(here, "/api/auth/check").await, (200, account), "nothing has changed");
    }
}

#[tokio::test]
async fn accounts_outlive_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().to_str().expect("a path");
    let mut node = Node::start(&["--data", data, "--accounts", "on"]).await;
    let (ann, bob) = (Browser::sign_up(&node, "ann").await, Browser::sign_up(&node, "bob").await);
    let message = json!({ "text": "hi", "image": data_url("png", PNG) });
    let (status, sent) = ann.send(&node, &bob.id, &message).await;
    assert_eq!(status, 201, "{sent}");
    node.kill();
    node.restart().await;
    assert_eq!(ann.get(&node, "/api/auth/check").await.0, 200, "the token is valid");
    let (_, listed) = bob.get(&node, &format!("/api/messages/{}", ann.id)).await;
    assert_eq!(listed, json!([sent]));
    let image = sent["image"].as_str().expect("a URL");
    assert_eq!(node.get(image).await.body, PNG);
    let login = json!({ "email": "ann@example.org", "password": "secret1" });
    assert_eq!(call(&node, None, "POST", "/api/auth/login", Some(&login)).await.status, 200);
}

#[tokio::test]
async fn without_the_flag_there_are_no_accounts() {
    let node = Node::memory().await;
    let body = json!({ "fullName": "A", "email": "a@b", "password": "secret1" });
    let answer = call(&node, None, "POST", "/api/auth/signup", Some(&body)).await;
    assert_eq!(answer.status, 404);
    let options = Options::new(Transport::WebSocket).query("userId", "0123456789abcdef01234567");
    let socket = Client::connected(node.address, options).await;
    assert!(socket.try_next("getOnlineUsers", Duration::from_millis(300)).await.is_none());
}

#[tokio::test]
async fn a_page_of_another_origin_may_use_put_with_its_cookie() {
    let node = Node::start(&["--data", "memory", "--accounts", "on"]).await;
    let headers = [
        ("Origin", "http://localhost:5173"),
        ("Access-Control-Request-Method", "PUT"),
        ("Access-Control-Request-Headers", "content-type"),
    ];
    let mut http = Http::open(node.address).await.expect("loopback works");
    let answer = http.request("OPTIONS", "/api/auth/update-profile", &headers, b"").await;
    let answer = answer.expect("an answer");
    let methods = answer.header("access-control-allow-methods").expect("a list");
    for method in ["PUT", "PATCH", "DELETE"] {
        assert!(methods.contains(method), "{methods}");
    }
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
}
