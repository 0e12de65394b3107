//! `make demo`: a small consortium to look at, until Ctrl-C.

use anyhow::Context;
use resuni_testkit::{World, demo::Demo, password};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    println!("Starting three servers of a consortium and filling them with life …");
    let world = World::new("demo")?;
    let mut demo = Demo::start(&world).await?;
    for (n, server) in demo.servers.iter().enumerate() {
        let url = server.url();
        println!(
            "\n{}\n  pages    {url}/timeline  {url}/consortium",
            server.name()
        );
        for (_, client) in demo.people.iter().filter(|(of, _)| *of == n) {
            let user = client.user();
            let name = user.trim_start_matches('@').split(':').next();
            let name = name.context("a user without a name")?;
            println!("  {user}  password {}  page {url}/@{name}", password(name));
        }
        println!("  sign in with any Matrix client, with {url} as the homeserver");
    }
    println!(
        "\nEverybody is in the room {}. Ctrl-C ends it all and removes it.",
        demo.chat
    );
    tokio::signal::ctrl_c().await?;
    for server in &mut demo.servers {
        server.stop().await?;
    }
    world.passed();
    Ok(())
}
