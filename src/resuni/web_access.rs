//! The way to the web that previews of links take: that of everything that others name, guarded by
//! `outbound.deny_ip_ranges`.

use anyhow::{Context, Result};
use axum::http::{HeaderMap, HeaderValue, header};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt as _;
use resuni_config::Config;
use resuni_federation::net::WebClient;
use resuni_media::{Answer, Web};
use url::Url;

/// What is looked for, pictures included.
const ACCEPT: HeaderValue =
    HeaderValue::from_static("text/html,application/xhtml+xml,image/*;q=0.9,*/*;q=0.5");

/// Web servers, by way of the guarded client.
pub(crate) struct TheWeb(WebClient);

impl TheWeb {
    /// Sets up the client.
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let denied = config.outbound.deny_ip_ranges.clone();
        resuni_federation::web_client(denied, &config.federation.extra_ca_files)
            .context("Web pages can't be reached.")
            .map(Self)
    }
}

impl Web for TheWeb {
    fn get<'a>(&'a self, url: &'a Url, language: &'a str) -> BoxFuture<'a, Result<Answer, String>> {
        Box::pin(async move {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, ACCEPT);
            if let Ok(language) = HeaderValue::from_str(language) {
                headers.insert(header::ACCEPT_LANGUAGE, language);
            }
            let response = self.0.look(url, headers).await;
            let response = response.map_err(|error| error.to_string())?;
            let text = |name| {
                let value = response.headers().get(name)?;
                Some(value.to_str().ok()?.to_owned())
            };
            // None was asked for, so this is not unpacked: what is small may become very large.
            if text(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
                return Err("the answer is packed".to_owned());
            }
            Ok(Answer {
                status: response.status().as_u16(),
                content_type: text(header::CONTENT_TYPE),
                location: text(header::LOCATION),
                body: Box::pin(futures_util::StreamExt::map(
                    response.into_body().into_data_stream(),
                    |chunk| chunk.map_err(|error| error.to_string()),
                )),
            })
        })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Nothing is set but the name of the server: the cloud's metadata, this machine and the networks behind it are out of
    /// reach of whatever strangers name.
    #[tokio::test]
    async fn s102_by_default_nothing_private_is_connected_to() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "server_name = \"us.example\"\n").unwrap();
        let config = resuni_config::load(Some(file.path()), std::iter::empty());
        let web = TheWeb::new(&config.unwrap().config).unwrap();
        for address in [
            "169.254.169.254",
            "[fd00:ec2::254]",
            "100.100.100.200",
            "127.0.0.1",
            "[::1]",
            "0.0.0.0",
            "[::]",
            "10.0.0.1",
            "172.31.255.254",
            "192.168.1.1",
            "[fe80::1]",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::169.254.169.254]",
            "[2002:a9fe:a9fe::1]",
        ] {
            for scheme in ["http", "https"] {
                let url = Url::parse(&format!("{scheme}://{address}:9/")).unwrap();
                let refused = web.get(&url, "en").await.err().unwrap();
                assert!(
                    refused.contains("outbound.deny_ip_ranges"),
                    "{url}: {refused}"
                );
            }
        }
    }
}
