//! E-mail pushers and a mail server on loopback.

use std::{sync::Arc, time::Duration};

use resuni_accounts::{AccountError, AccountNum, Accounts, Medium, Purpose, ValidationRequest};
use ruma::{ClientSecret, api::client::push::Pusher};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::{Home, text};
use crate::{Digests, MailConfig, MailTls, Mailer, Ways};

const ADDRESS: &str = "bob@example.org";

/// Takes one mail after the other; `refuse` of them are refused first.
async fn mail_server(mut refuse: usize) -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let refused = refuse > 0;
            refuse = refuse.saturating_sub(1);
            if let Some(mail) = talk(stream, refused).await {
                let _ = tell.send(mail);
            }
        }
    });
    (port, told)
}

async fn talk(stream: TcpStream, refused: bool) -> Option<String> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut mail = None;
    write.write_all(b"220 mail.example\r\n").await.ok()?;
    while let Some(line) = lines.next_line().await.ok()? {
        let answer: &[u8] = match line.get(..4).unwrap_or_default() {
            "EHLO" => b"250-mail.example\r\n250 8BITMIME\r\n",
            "MAIL" if refused => b"451 not now\r\n",
            "DATA" => {
                write.write_all(b"354 go on\r\n").await.ok()?;
                let mut text = String::new();
                while let Some(line) = lines.next_line().await.ok()?.filter(|l| l != ".") {
                    text.push_str(&line);
                    text.push('\n');
                }
                mail = Some(text.replace("=\n", "").replace("=3D", "="));
                b"250 kept\r\n"
            }
            "QUIT" => break,
            _ => b"250 fine\r\n",
        };
        write.write_all(answer).await.ok()?;
        if mail.is_some() {
            break;
        }
    }
    mail
}

async fn home(port: u16) -> Home {
    let mailer = Mailer::new(MailConfig {
        host: "127.0.0.1".to_owned(),
        port,
        tls: MailTls::None,
        login: None,
        from: "h <matrix@h>".to_owned(),
        extra_ca_files: Vec::new(),
        base_url: "https://h".to_owned(),
        server_name: "h".to_owned(),
    });
    let mail = Digests {
        mailer: Arc::new(mailer.unwrap()),
        delay_ms: 50,
    };
    Home::with(Ways {
        gateways: None,
        mail: Some(mail),
    })
    .await
}

/// Gives an account an address as its owner would.
async fn give_address(accounts: &Accounts, account: AccountNum) {
    let secret = <&ClientSecret>::try_from("secret").unwrap();
    let request = ValidationRequest {
        purpose: Purpose::Add,
        address: ADDRESS,
        client_secret: secret,
        attempt: 1,
        next_link: None,
    };
    let begun = accounts.begin_validation(&request).await.unwrap();
    let token = begun.token.unwrap();
    let confirmed = accounts.confirm_validation(&begun.sid, "secret", &token);
    confirmed.await.unwrap();
    let validated = accounts.validated(Purpose::Add, &begun.sid, "secret");
    let validated = validated.await.unwrap();
    accounts.add_contact(account, validated).await.unwrap();
}

fn pusher() -> Pusher {
    serde_json::from_value(json!({
        "kind": "email", "app_id": "m.email", "pushkey": ADDRESS, "lang": "en",
        "app_display_name": "Email Notifications", "device_display_name": ADDRESS,
        "data": { "brand": "Element" },
    }))
    .unwrap()
}

async fn next(told: &mut mpsc::UnboundedReceiver<String>) -> String {
    let mail = tokio::time::timeout(Duration::from_secs(60), told.recv());
    mail.await.unwrap().unwrap()
}

#[tokio::test]
async fn what_stays_unread_is_mailed_until_somebody_has_enough() {
    // The first attempt fails.
    let (port, mut told) = mail_server(1).await;
    let home = home(port).await;
    let bob = home.member("bob").await;
    give_address(&home.accounts, bob.1).await;
    let pusher = pusher();
    let set = home
        .accounts
        .set_pusher(bob.1, Some("PHONE"), &pusher, false);
    set.await.unwrap();
    // It stays when the device goes.
    let stored = home.accounts.pushers(bob.1).await.unwrap();
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].device, None);
    let read = home.say(&home.alice, text("this is read in time")).await;
    home.read(&bob.0, &read, None).await;
    home.say(&home.alice, text("<b>one</b>")).await;
    home.say(&home.alice, text("two")).await;
    tokio::spawn(home.push.clone().run());
    let mail = next(&mut told).await;
    assert!(mail.contains("Subject: 2 unread messages on h"), "{mail}");
    assert!(mail.contains("To: bob@example.org"));
    assert!(
        mail.contains("alice: <b>one</b>") || mail.contains("@alice:h: <b>one</b>"),
        "{mail}"
    );
    assert!(mail.contains("&lt;b&gt;one&lt;/b&gt;"), "{mail}");
    assert!(mail.contains("two") && !mail.contains("in time"));
    assert!(mail.contains("List-Unsubscribe-Post: List-Unsubscribe=One-Click"));

    let at = mail.find("token=").unwrap() + "token=".len();
    let token: String = mail[at..]
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c))
        .collect();
    assert!(!home.push.unsubscribe("unsub_nonsense").await.unwrap());
    assert!(home.push.unsubscribe(&token).await.unwrap());
    assert!(home.accounts.pushers(bob.1).await.unwrap().is_empty());
    assert!(!home.push.unsubscribe(&token).await.unwrap());
}

#[tokio::test]
async fn mail_goes_to_addresses_of_the_account_only() {
    let home = home(9).await;
    let (bob, carol) = (home.member("bob").await, home.member("carol").await);
    give_address(&home.accounts, bob.1).await;
    let stolen = home
        .accounts
        .set_pusher(carol.1, None, &pusher(), true)
        .await;
    assert!(matches!(stolen, Err(AccountError::ThreepidNotFound)));
    let mut odd = pusher();
    odd.ids.app_id = "another".to_owned();
    let odd = home.accounts.set_pusher(bob.1, None, &odd, true).await;
    assert!(matches!(odd, Err(AccountError::InvalidParam(_))));
    let mut shouted = pusher();
    shouted.ids.pushkey = ADDRESS.to_uppercase();
    let set = home.accounts.set_pusher(bob.1, None, &shouted, false).await;
    set.unwrap();
    // The mails end with the address.
    let removed = home.accounts.remove_contact(bob.1, Medium::Email, ADDRESS);
    removed.await.unwrap();
    assert!(home.accounts.pushers(bob.1).await.unwrap().is_empty());
}
