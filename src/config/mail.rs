//! Settings of mail.

use std::path::PathBuf;

use crate::describe::settings;
use crate::values::{MailSecurity, Secret};

settings! {
    /// Mail.
    pub struct Email {
        /// The SMTP server that takes mail from this one. Without it no mail is sent, and people
        /// can't add e-mail addresses to their accounts.
        value smtp_host: Option<String> = None, like "\"smtp.example.org\"";

        /// Its port: usually 587 for "starttls", 465 for "tls".
        value smtp_port: u16 = 587;

        /// "starttls", "tls", or "none", which is for a mail server on the same machine.
        value security: MailSecurity = MailSecurity::Starttls;

        /// The name to log in with, if it wants one.
        value username: Option<String> = None, like "\"matrix\"";

        /// The password.
        value password: Option<Secret> = None, like "\"a password\"";

        /// Who the mail is from.
        value from: Option<String> = None, like "\"Example <matrix@example.org>\"";

        /// How long a message stays unread before it is mailed to people who asked their client for that, in minutes.
        value notify_after_minutes: u64 = 10;

        /// Certificates (PEM) of authorities to trust besides the system's.
        value extra_ca_files: Vec<PathBuf> = Vec::new(), like "[]";
    }
}
