//! What `store/accounts.rs` promises, as a suite that every store passes: `account_contract!(name, Log)`.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use roomcast::{
    domain::{
        account::{Account, Email, PasswordHash, PictureKind, PictureName},
        name::UserName,
        position::Timestamp,
    },
    store::{RetentionPolicy, accounts::PictureLife},
};

use crate::harness::{
    eventually,
    presence::id,
    store::{DEADLINE, Log, retention},
};

fn account(user: &str, email: &str) -> Account {
    Account {
        id: id(user),
        full_name: UserName::parse("Ann \"É\" / O'Neil").expect("a name"),
        email: Email::parse(email).expect("an address"),
        password: PasswordHash::new("$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaC8r"),
        picture: None,
        created_at: Timestamp(1_732_800_000_123),
        updated_at: Timestamp(1_732_800_000_123),
    }
}

fn picture(digit: char) -> PictureName {
    PictureName::new(&digit.to_string().repeat(32), PictureKind::Png).expect("a name")
}

pub async fn an_email_address_has_one_account<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let store = log.node().await.store;
    let accounts = &store.accounts;
    let ann = account("a1", "ann@example.org");
    assert_eq!(accounts.account(id("a1")).await.expect("it can be read"), None);
    assert!(accounts.sign_up(ann.clone()).await.expect("it is stored"));
    let again = account("a2", "ANN@example.org");
    assert!(!accounts.sign_up(again.clone()).await.expect("it is asked"));
    let same_id = account("a1", "other@example.org");
    assert!(!accounts.sign_up(same_id.clone()).await.expect("it is asked"));
    assert_eq!(accounts.account(id("a1")).await.expect("it can be read"), Some(ann.clone()));
    assert_eq!(accounts.account(id("a2")).await.expect("it can be read"), None);
    let of = async |email: &Email| accounts.account_of(email.clone()).await.expect("it is read");
    assert_eq!(of(&again.email).await, Some(ann));
    assert_eq!(of(&same_id.email).await, None);

    // Of many at once one gets it.
    let many = (0..20).map(|n| accounts.sign_up(account(&format!("b{n}"), "bob@example.org")));
    let stored = join_all(many).await.into_iter().map(|stored| stored.expect("it is asked"));
    assert_eq!(stored.filter(|stored| *stored).count(), 1);
    store.lifecycle.close().await;
}

pub async fn the_newest_accounts_are_listed<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let store = log.node().await.store;
    for n in 0..5 {
        let account = account(&format!("u{}", 9 - n), &format!("u{n}@example.org"));
        assert!(store.accounts.sign_up(account).await.expect("it is stored"));
    }
    let listed = async |limit| {
        let listed = store.accounts.accounts(limit).await.expect("they can be read");
        listed.into_iter().map(|one| one.email.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(2).await, ["u3@example.org", "u4@example.org"]);
    assert_eq!(listed(100).await.len(), 5);
    store.lifecycle.close().await;
}

pub async fn a_picture_is_kept_as_long_as_it_is_shown<L: Log>() {
    let life = Duration::from_secs(2);
    let mut log = L::fresh(RetentionPolicy { history_ttl: life, ..retention() }).await;
    let store = log.node().await.store;
    let accounts = &store.accounts;
    assert!(accounts.sign_up(account("a1", "ann@example.org")).await.expect("it is stored"));
    let file = Bytes::from_static(b"\x89PNG\r\n\x1a\n\x00\xff\xfe");
    let keep = async |name: &PictureName, life| {
        accounts.keep_picture(name.clone(), file.clone(), life).await.expect("it is kept");
    };
    let read =
        async |name: &PictureName| accounts.picture(name.clone()).await.expect("it can be read");
    let (first, second, sent) = (picture('1'), picture('2'), picture('3'));
    keep(&first, PictureLife::Profile).await;
    keep(&first, PictureLife::Message).await;
    keep(&sent, PictureLife::Message).await;
    let set = async |id, name: &PictureName, at| {
        accounts.set_picture(id, name.clone(), Timestamp(at)).await.expect("it is set")
    };
    let ann = set(id("a1"), &first, 7).await.expect("there is an account");
    assert_eq!((ann.picture, ann.updated_at), (Some(first.clone()), Timestamp(7)));
    assert_eq!(set(id("nobody"), &first, 7).await, None);
    assert_eq!(read(&sent).await, Some(file.clone()));
    assert_eq!(read(&picture('4')).await, None);
    eventually("the picture of a message ends", DEADLINE, async || {
        read(&sent).await.is_none().then_some(())
    })
    .await;
    assert_eq!(read(&first).await, Some(file.clone()), "a profile has it");

    keep(&second, PictureLife::Profile).await;
    set(id("a1"), &second, 8).await;
    set(id("a1"), &second, 9).await;
    eventually("the picture before ends", DEADLINE, async || {
        read(&first).await.is_none().then_some(())
    })
    .await;
    assert_eq!(read(&second).await, Some(file), "a profile has it");
    store.lifecycle.close().await;
}

pub async fn the_first_token_key_stays<L: Log>() {
    let mut log = L::fresh(retention()).await;
    let store = log.node().await.store;
    let key = async |offered: &str| {
        store.accounts.token_key(offered.to_owned()).await.expect("there is one")
    };
    let offered = ["one", "two", "three"];
    let keys = join_all(offered.iter().map(|offered| key(offered))).await;
    assert!(offered.contains(&keys[0].as_str()) && keys.iter().all(|key| *key == keys[0]));
    assert_eq!(key("four").await, keys[0]);
    store.lifecycle.close().await;
}

macro_rules! account_contract {
    ($name:ident, $log:ty) => {
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn an_email_address_has_one_account() {
                crate::account_store::an_email_address_has_one_account::<$log>().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn the_newest_accounts_are_listed() {
                crate::account_store::the_newest_accounts_are_listed::<$log>().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_picture_is_kept_as_long_as_it_is_shown() {
                crate::account_store::a_picture_is_kept_as_long_as_it_is_shown::<$log>().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn the_first_token_key_stays() {
                crate::account_store::the_first_token_key_stays::<$log>().await;
            }
        }
    };
}
