//! `/config.json`: what the page must know of its server, and the policy that follows from it.

use http::Uri;
use serde::Serialize;
use service::Reader;

/// Abilities beyond the first version of the page that this version of the services has.
const FEATURES: &[&str] = &["max_amount", "pause", FACTS];
/// Everyone may read the facts of an auction that is over. Where names are hidden, its host alone may.
const FACTS: &str = "facts";

/// The content of `/config.json`. Fields that are absent switch off a part of the page.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PageConfig {
    issuer: String,
    client_id: String,
    #[serde(flatten)]
    hosted_ui: Option<HostedUi>,
    currency: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    video_player_url: Option<String>,
    /// Where the page sends photos to. Only the policy needs it: the address of each upload is in the reply to its request.
    #[serde(skip)]
    uploads_origin: Option<String>,
    features: Vec<&'static str>,
}

/// Where people sign in: the pages of a Cognito domain, or of an issuer with the same paths.
#[derive(Debug, Clone, Serialize)]
struct HostedUi {
    authorize_url: String,
    token_url: String,
    logout_url: String,
}

impl HostedUi {
    fn at(base: &str) -> Self {
        let base = base.trim_end_matches('/');
        let page = |path: &str| format!("{base}{path}");
        Self { authorize_url: page("/oauth2/authorize"), token_url: page("/oauth2/token"), logout_url: page("/logout") }
    }
}

impl PageConfig {
    /// Reads `COGNITO_HOSTED_UI_URL`, `CURRENCY`, `VIDEO_PLAYER_URL` and `UPLOADS_ORIGIN`.
    pub fn read(reader: &mut Reader<'_>, identity: &identity::Settings, show_aliases: bool) -> Self {
        let address = |text: &str| origin(text).map(|_| Some(text.to_owned()));
        let hosted_ui =
            reader.read("COGNITO_HOSTED_UI_URL", None, "an address such as https://auth.example.com", address);
        let currency = |text: &str| is_currency(text).then(|| text.to_owned());
        let player = |text: &str| (is_path(text) || origin(text).is_some()).then(|| Some(text.to_owned()));
        Self {
            issuer: identity.issuer.clone(),
            client_id: identity.client_id.clone(),
            hosted_ui: hosted_ui.map(|base| HostedUi::at(&base)),
            currency: reader.read("CURRENCY", "USD".to_owned(), "three capital letters such as USD", currency),
            video_player_url: reader.read("VIDEO_PLAYER_URL", None, "an address or a path of a module", player),
            uploads_origin: reader.read(
                "UPLOADS_ORIGIN",
                None,
                "an origin such as https://photos.example.com",
                |text| origin(text).filter(|origin| origin == text).map(Some),
            ),
            features: FEATURES.iter().copied().filter(|feature| !show_aliases || *feature != FACTS).collect(),
        }
    }

    /// The `Content-Security-Policy` of every file: nothing inline, nothing from strangers.
    pub fn content_security_policy(&self) -> String {
        let token = self.hosted_ui.as_ref().and_then(|hosted_ui| origin(&hosted_ui.token_url));
        let token = token.map(|origin| format!(" {origin}")).unwrap_or_default();
        let player = self.video_player_url.as_deref().and_then(origin);
        let player = player.map(|origin| format!(" {origin}")).unwrap_or_default();
        let uploads = self.uploads_origin.as_ref().map(|origin| format!(" {origin}")).unwrap_or_default();
        format!(
            "default-src 'none'; script-src 'self'{player}; style-src 'self'; img-src 'self' https: http:; connect-src \
             'self'{token}{uploads} https://*.live-video.net; media-src 'self' blob: https:; worker-src 'self' blob:; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
             trusted-types 'none'"
        )
    }
}

/// The origin of an http or https address, in characters that a header and a policy take.
fn origin(address: &str) -> Option<String> {
    let uri: Uri = address.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?.as_str());
    let is_plain = authority.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte));
    (["http", "https"].contains(&scheme) && is_plain).then(|| format!("{scheme}://{authority}"))
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && !text.starts_with("//")
}

fn is_currency(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use service::Environment;

    use super::*;

    fn read(settings: &[(&str, &str)]) -> Result<PageConfig, service::Mistakes> {
        let mut environment = Environment::default();
        for (name, value) in settings {
            environment.set(name, *value);
        }
        let mut reader = Reader::new(&environment);
        let identity =
            identity::Settings { issuer: "issuer".to_owned(), client_id: "client".to_owned(), ..Default::default() };
        let config = PageConfig::read(&mut reader, &identity, false);
        reader.finish(config)
    }

    #[test]
    fn configuration_names_the_pages_of_the_hosted_ui() {
        let config = read(&[("COGNITO_HOSTED_UI_URL", "https://auth.example.com/")]).expect("a configuration");
        let json = serde_json::to_value(&config).expect("JSON");
        let expected = serde_json::json!({
            "issuer": "issuer", "client_id": "client",
            "authorize_url": "https://auth.example.com/oauth2/authorize",
            "token_url": "https://auth.example.com/oauth2/token",
            "logout_url": "https://auth.example.com/logout",
            "currency": "USD", "features": ["max_amount", "pause", "facts"],
        });
        assert_eq!(json, expected);
        let policy = config.content_security_policy();
        assert!(policy.contains("connect-src 'self' https://auth.example.com https://*.live-video.net;"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }

    #[test]
    fn server_without_a_sign_in_names_none() {
        let settings = [
            ("VIDEO_PLAYER_URL", "https://cdn.example.com/player.js"),
            ("UPLOADS_ORIGIN", "https://photos.example.com"),
        ];
        let config = read(&settings).expect("a configuration");
        let json = serde_json::to_value(&config).expect("JSON");
        assert_eq!((&json["authorize_url"], &json["token_url"]), (&serde_json::Value::Null, &serde_json::Value::Null));
        let policy = config.content_security_policy();
        assert!(policy.contains("script-src 'self' https://cdn.example.com;"), "{policy}");
        assert!(policy.contains("connect-src 'self' https://photos.example.com https://*.live-video.net;"), "{policy}");
    }

    #[test]
    fn wrong_addresses_are_mistakes() {
        for (name, value) in [
            ("COGNITO_HOSTED_UI_URL", "auth.example.com"),
            ("COGNITO_HOSTED_UI_URL", "ftp://auth.example.com"),
            ("COGNITO_HOSTED_UI_URL", "https://a;script-src"),
            ("VIDEO_PLAYER_URL", "//evil.example/player.js"),
            ("UPLOADS_ORIGIN", "https://photos.example.com/photos"),
            ("CURRENCY", "dollars"),
        ] {
            let mistakes = read(&[(name, value)]).expect_err(value).0;
            assert!(mistakes.len() == 1 && mistakes[0].starts_with(name), "{mistakes:?}");
        }
    }
}
