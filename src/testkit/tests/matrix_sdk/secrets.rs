//! The life of an account that encrypts, as `matrix-sdk` leads it: people on two servers verify each other, send messages
//! and files, sign in on another device, and read there what was said before.

use anyhow::{Context, ensure};
use matrix_sdk::{
    Client, Room, RoomState,
    attachment::AttachmentConfig,
    encryption::{BackupDownloadStrategy, EncryptionSettings, recovery::RecoveryState},
    media::{MediaFormat, MediaRequestParameters},
    room::MessagesOptions,
    ruma::{OwnedUserId, RoomId, events::room::MediaSource, uint},
};
use resuni_testkit::{Server, World, password};
use serde_json::Value;

use super::{Person, is_encrypted, meet, patiently, talk};

/// What is sent as a file; longer than a block of any cipher.
const FILE: &[u8] = &[0x5a; 100_000];

/// Signs in to an account that there is, on another device.
async fn another_device(server: &Server, name: &str) -> anyhow::Result<Person> {
    let settings = EncryptionSettings {
        backup_download_strategy: BackupDownloadStrategy::OneShot,
        ..EncryptionSettings::default()
    };
    let client = Client::builder()
        .homeserver_url(server.url())
        .with_encryption_settings(settings)
        .build()
        .await?;
    let login = client.matrix_auth().login_username(name, &password(name));
    login
        .initial_device_display_name("another device")
        .send()
        .await?;
    Ok(Person::begin(client))
}

/// Alice begins, in a conversation that both are in; both compare what they are shown.
async fn verify(alice: &Person, bob: &Person) -> anyhow::Result<()> {
    let (she, he) = (alice.id()?, bob.id()?);
    let identity = alice.client.encryption().request_user_identity(&he).await?;
    let identity = identity.context("Bob has no identity")?;
    ensure!(!identity.is_verified(), "Bob is verified already");
    let asked = identity.request_verification().await?;
    let flow = asked.flow_id().to_owned();
    let request = patiently("Bob is not asked", async || {
        let encryption = bob.client.encryption();
        Ok(encryption.get_verification_request(&she, &flow).await)
    });
    request.await?.accept().await?;
    let ready = async || Ok(asked.is_ready().then_some(()));
    patiently("Bob's answer does not come", ready).await?;
    let hers = asked.start_sas().await?.context("no short strings")?;
    let his = patiently("Bob does not see that it began", async || {
        let verification = bob.client.encryption().get_verification(&she, &flow).await;
        Ok(verification.and_then(matrix_sdk::encryption::verification::Verification::sas))
    });
    let his = his.await?;
    his.accept().await?;
    let shown = async || Ok((hers.can_be_presented() && his.can_be_presented()).then_some(()));
    patiently("nothing to compare", shown).await?;
    ensure!(hers.decimals().is_some(), "no numbers to compare");
    ensure!(hers.decimals() == his.decimals(), "somebody is in between");
    hers.confirm().await?;
    his.confirm().await?;
    let done = async || Ok((hers.is_done() && his.is_done()).then_some(()));
    patiently("it does not end", done).await?;
    for (one, other) in [(alice, he), (bob, she)] {
        let verified = async || is_verified(&one.client, &other).await;
        patiently("somebody is not verified", verified).await?;
    }
    Ok(())
}

async fn is_verified(client: &Client, user: &OwnedUserId) -> anyhow::Result<Option<()>> {
    let identity = client.encryption().get_user_identity(user).await?;
    Ok(identity
        .is_some_and(|identity| identity.is_verified())
        .then_some(()))
}

/// Sends a file that no server can read, and gets it on the other side.
async fn send_file(from: &Room, to: &Person, name: &str) -> anyhow::Result<()> {
    let kind = "application/octet-stream".parse()?;
    from.send_attachment(name, &kind, FILE.to_vec(), AttachmentConfig::new())
        .await?;
    let source = patiently("the file does not come", async || Ok(to.file(name))).await?;
    ensure!(
        matches!(source, MediaSource::Encrypted(_)),
        "the file is sent in clear"
    );
    let request = MediaRequestParameters {
        source,
        format: MediaFormat::File,
    };
    let got = to.client.media().get_media_content(&request, false).await?;
    ensure!(got == FILE, "it is another file");
    Ok(())
}

/// The texts of a room as far as a device can read them; none as long as it can't read one of them.
async fn history(person: &Person, room: &RoomId) -> anyhow::Result<Option<Vec<String>>> {
    let room = person.client.get_room(room).context("no room")?;
    let mut options = MessagesOptions::backward();
    options.limit = uint!(100);
    let mut texts = Vec::new();
    for event in room.messages(options).await?.chunk {
        match event.raw().get_field::<String>("type")?.as_deref() {
            Some("m.room.encrypted") => return Ok(None),
            Some("m.room.message") => {}
            _ => continue,
        }
        let content: Option<Value> = event.raw().get_field("content")?;
        let body = content
            .as_ref()
            .and_then(|content| content["body"].as_str());
        texts.extend(body.map(str::to_owned));
    }
    Ok(Some(texts))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_device_is_trusted_and_reads_what_was_said() -> anyhow::Result<()> {
    let world = World::new("sdk-secrets")?;
    let (one, two) = (world.resuni("one").await?, world.resuni("two").await?);
    let alice = Person::login(&one, "alice").await?;
    let bob = Person::login(&two, "bob").await?;
    for person in [&alice, &bob] {
        // "The first upload of cross-signing keys needs no further authentication" (MSC3967).
        person
            .client
            .encryption()
            .bootstrap_cross_signing(None)
            .await?;
    }

    // A conversation of two, in which they verify each other.
    let hers = alice.client.create_dm(&bob.id()?).await?;
    let his = bob.room(hers.room_id(), RoomState::Invited).await?;
    his.join().await?;
    let his = bob.room(hers.room_id(), RoomState::Joined).await?;
    is_encrypted(&his).await?;
    talk(&alice, &bob, &hers, &his).await?;
    verify(&alice, &bob).await?;
    send_file(&hers, &bob, "a plan").await?;
    send_file(&his, &alice, "another plan").await?;

    // A room.
    let (in_room, his_room) = meet(&alice, &bob).await?;
    in_room.enable_encryption().await?;
    is_encrypted(&his_room).await?;
    talk(&alice, &bob, &in_room, &his_room).await?;
    send_file(&his_room, &alice, "a picture").await?;

    // Alice keeps her secrets on her server, encrypted with a key that she writes down.
    let recovery = alice.client.encryption().recovery();
    let key = recovery.enable().wait_for_backups_to_upload().await?;
    let second = another_device(&one, "alice").await?;
    second.room(hers.room_id(), RoomState::Joined).await?;
    second.client.encryption().recovery().recover(&key).await?;
    let state = second.client.encryption().recovery().state();
    ensure!(state == RecoveryState::Enabled, "recovery is {state:?}");
    let own = second.client.encryption().get_own_device().await?;
    let own = own.context("no device")?;
    ensure!(own.is_cross_signed_by_owner(), "the device is not signed");
    for room in [hers.room_id(), in_room.room_id()] {
        let texts = patiently("old messages can't be read", async || {
            history(&second, room).await
        });
        let texts = texts.await?;
        for n in 0..5 {
            for text in [format!("question {n}"), format!("answer {n}")] {
                ensure!(texts.contains(&text), "{text} is missing in {texts:?}");
            }
        }
    }

    // Bob trusts the new device because Alice does, and writes to it.
    let device = own.device_id().to_owned();
    let she = alice.id()?;
    patiently("Bob does not trust the new device", async || {
        let found = bob.client.encryption().get_device(&she, &device).await?;
        Ok(found
            .is_some_and(|device| device.is_verified())
            .then_some(()))
    })
    .await?;
    his.send(
        matrix_sdk::ruma::events::room::message::RoomMessageEventContent::text_plain("to both"),
    )
    .await?;
    alice.is_shown("to both").await?;
    second.is_shown("to both").await?;
    drop((alice, bob, second));
    world.passed();
    Ok(())
}
