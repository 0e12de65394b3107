//! Settings of calls between people.

use crate::describe::settings;
use crate::values::Secret;

settings! {
    /// TURN servers.
    pub struct Turn {
        /// Their addresses. Without any, clients are told that there is none.
        value uris: Vec<String> = Vec::new(), like "[\"turn:turn.example.org?transport=udp\"]";

        /// The secret that they share with this server: `static-auth-secret` of coturn.
        value shared_secret: Option<Secret> = None, like "\"a long random text\"";

        /// In place of the secret, one name for everybody.
        value username: Option<String> = None, like "\"people\"";

        /// The password that goes with it.
        value password: Option<Secret> = None, like "\"a password\"";

        /// How long what a client is given is good for, in seconds.
        value lifetime: u64 = 86_400;
    }
}

settings! {
    /// Where two devices meet before the new one is signed in.
    pub struct Rendezvous {
        /// Whether anybody may leave a short text here for a few minutes, which another device
        /// picks up (MSC4108, MSC4388). Clients use it only where people sign in by OAuth 2.0.
        value enabled: bool = false;
    }
}

settings! {
    /// Group calls.
    pub struct Calls {
        /// Services that give out tokens for LiveKit (lk-jwt-service); clients are told of them
        /// (MatrixRTC).
        value livekit_service_urls: Vec<String> = Vec::new(), like "[\"https://rtc.example.org\"]";
    }
}
