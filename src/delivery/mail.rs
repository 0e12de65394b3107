//! Mail that people get from this server, through the SMTP server of its operator.

use std::{path::PathBuf, time::Duration};

use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Mailbox, MessageBuilder, MultiPart, SinglePart,
        header::{ContentType, HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
    },
};
use resuni_accounts::{Accounts, Begun, Purpose, ValidationRequest};
use tokio::sync::Semaphore;

use crate::error::DeliveryError;

/// How long the mail server may take for each step.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Mails on their way at once; others wait for them.
const AT_ONCE: usize = 8;

/// How the connection to the mail server is secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// By TLS from the start.
    Implicit,
    /// By TLS before anything is said.
    StartTls,
    /// Not at all: for a server on the same machine.
    None,
}

/// Where mail goes out.
#[derive(Clone)]
pub struct MailConfig {
    /// The mail server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is secured.
    pub tls: MailTls,
    /// Name and password, if it wants them.
    pub login: Option<(String, String)>,
    /// Who the mail is from: an address, with or without a name before it.
    pub from: String,
    /// Certificates (PEM) of authorities to trust besides the system's.
    pub extra_ca_files: Vec<PathBuf>,
    /// Where people reach this server, without a slash at the end; links begin with it.
    pub base_url: String,
    /// How the server is called in its mails.
    pub server_name: String,
}

/// Sends mail.
pub struct Mailer {
    config: MailConfig,
    from: Mailbox,
    transport: AsyncSmtpTransport<Tokio1Executor>,
    slots: Semaphore,
}

impl Mailer {
    /// Through this mail server, which is not asked yet.
    ///
    /// # Errors
    /// [`DeliveryError::Mail`] if the sender is no address, or a certificate can't be read.
    pub fn new(config: MailConfig) -> Result<Self, DeliveryError> {
        let from = config.from.parse().map_err(|error| {
            DeliveryError::Mail(format!("`{}` is not a sender: {error}", config.from))
        })?;
        let tls = match config.tls {
            MailTls::None => Tls::None,
            MailTls::Implicit => Tls::Wrapper(parameters(&config)?),
            MailTls::StartTls => Tls::Required(parameters(&config)?),
        };
        let mut transport =
            AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(config.host.as_str())
                .port(config.port)
                .tls(tls)
                .timeout(Some(TIMEOUT));
        if let Some((name, password)) = &config.login {
            let login = Credentials::new(name.clone(), password.clone());
            transport = transport.credentials(login);
        }
        Ok(Self {
            from,
            transport: transport.build(),
            slots: Semaphore::new(AT_ONCE),
            config,
        })
    }

    /// Begins the validation of an address, mails its link, and answers the id of the session.
    ///
    /// # Errors
    /// Those of [`Accounts::begin_validation`]; [`DeliveryError::Mail`] if the mail server did not take it.
    pub async fn validate(
        &self,
        accounts: &Accounts,
        request: &ValidationRequest<'_>,
    ) -> Result<String, DeliveryError> {
        let begun = accounts.begin_validation(request).await?;
        if let Some(token) = &begun.token {
            let link = self.link(&begun, token, request);
            let (subject, text) = letter(request.purpose, &self.config.server_name, &link);
            self.send(&begun.address, subject, text).await?;
        }
        Ok(begun.sid)
    }

    /// The page on which who reads the mail confirms. All parts are of characters that need no escaping.
    fn link(&self, begun: &Begun, token: &str, request: &ValidationRequest<'_>) -> String {
        format!(
            "{}/_resuni/email/confirm?sid={}&client_secret={}&token={token}",
            self.config.base_url, begun.sid, request.client_secret
        )
    }

    /// How the server is called in its mails.
    pub(crate) fn server_name(&self) -> &str {
        &self.config.server_name
    }

    /// The page on which who reads a mail ends such mails; `token` needs no escaping.
    pub(crate) fn unsubscribe_link(&self, token: &str) -> String {
        let base = &self.config.base_url;
        format!("{base}/_resuni/email/unsubscribe?token={token}")
    }

    async fn send(&self, to: &str, subject: String, text: String) -> Result<(), DeliveryError> {
        let text = SinglePart::builder()
            .header(ContentType::TEXT_PLAIN)
            .body(text);
        let message = self
            .message(to, subject)?
            .singlepart(text)
            .map_err(|error| failed(&error))?;
        self.hand_over(message).await
    }

    /// Sends a mail that nobody asked for just now: programs answer it with nothing, and can end such mails (RFC 3834,
    /// RFC 8058).
    pub(crate) async fn send_letter(&self, to: &str, letter: Letter) -> Result<(), DeliveryError> {
        let header = |name: &'static str, value: String| {
            HeaderValue::new(HeaderName::new_from_ascii_str(name), value)
        };
        let end = format!("<{}>", letter.unsubscribe);
        let one_click = "List-Unsubscribe=One-Click".to_owned();
        let message = self
            .message(to, letter.subject)?
            .raw_header(header("Auto-Submitted", "auto-generated".to_owned()))
            .raw_header(header("List-Unsubscribe", end))
            .raw_header(header("List-Unsubscribe-Post", one_click))
            .multipart(MultiPart::alternative_plain_html(letter.text, letter.html))
            .map_err(|error| failed(&error))?;
        self.hand_over(message).await
    }

    fn message(&self, to: &str, subject: String) -> Result<MessageBuilder, DeliveryError> {
        let to: Address = to.parse().map_err(|error| failed(&error))?;
        Ok(Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(subject))
    }

    async fn hand_over(&self, message: Message) -> Result<(), DeliveryError> {
        let _slot = self.slots.acquire().await.map_err(|error| failed(&error))?;
        let sent = self.transport.send(message).await;
        sent.map(drop).map_err(|error| failed(&error))
    }
}

/// A mail in two forms.
pub(crate) struct Letter {
    pub subject: String,
    pub text: String,
    pub html: String,
    /// The address that ends such mails.
    pub unsubscribe: String,
}

fn failed(error: &dyn std::fmt::Display) -> DeliveryError {
    DeliveryError::Mail(error.to_string())
}

fn parameters(config: &MailConfig) -> Result<TlsParameters, DeliveryError> {
    let mut builder = TlsParameters::builder(config.host.clone());
    for path in &config.extra_ca_files {
        let wrong = |error: &dyn std::fmt::Display| {
            DeliveryError::Mail(format!("{} can't be used: {error}", path.display()))
        };
        let pem = std::fs::read(path).map_err(|error| wrong(&error))?;
        let certificate = Certificate::from_pem(&pem).map_err(|error| wrong(&error))?;
        builder = builder.add_root_certificate(certificate);
    }
    builder
        .build_rustls()
        .map_err(|error| DeliveryError::Mail(error.to_string()))
}

/// Subject and text of the mail with a link.
fn letter(purpose: Purpose, server: &str, link: &str) -> (String, String) {
    let (subject, wanted) = match purpose {
        Purpose::Register => (
            "Confirm your address",
            "make an account with this e-mail address",
        ),
        Purpose::Add => (
            "Confirm your address",
            "add this e-mail address to an account",
        ),
        Purpose::ResetPassword => (
            "Reset your password",
            "set a new password for the account with this e-mail address",
        ),
    };
    let text = format!(
        "Hello,\n\nsomebody, hopefully you, wants to {wanted} on {server}.\n\
         If it was you, open this page and confirm there:\n\n{link}\n\n\
         If it was not you, do nothing: without your confirmation nothing happens.\n"
    );
    (format!("{subject} on {server}"), text)
}
