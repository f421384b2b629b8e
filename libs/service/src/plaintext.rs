//! Refuses addresses that lead to another machine without TLS.

use std::net::IpAddr;

/// Settings that hold addresses, each with how it asks for TLS.
const ADDRESSES: [(&str, &str); 9] = [
    ("AUCTION_MANAGEMENT_URL", "use https://"),
    ("AWS_ENDPOINT_URL", "use https://"),
    ("BID_PROCESSING_URL", "use https://"),
    ("DATABASE_URL", "add sslmode=verify-full"),
    ("JWKS_URL", "use https://"),
    ("NATS_URL", "use tls://"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "use https://"),
    ("REDIS_URL", "use rediss://"),
    ("TIMER_URL", "use https://"),
];
/// Schemes of addresses that are encrypted, and whose certificate is checked.
const ENCRYPTED: [&str; 4] = ["https", "rediss", "tls", "wss"];
/// Schemes of sockets in the file system.
const LOCAL: [&str; 3] = ["redis+unix", "unix", "valkey+unix"];
/// Modes of PostgreSQL that check the certificate. `require` encrypts, and takes any server's.
const VERIFIED: [&str; 2] = ["verify-ca", "verify-full"];

/// A mistake for each setting among these that leads to another machine without TLS.
pub(crate) fn mistakes(find: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let plain = |name: &str| find(name).is_some_and(|urls| urls.split(',').any(|url| is_exposed(url.trim())));
    let wrong = ADDRESSES.iter().filter(|(name, _)| plain(name));
    wrong
        .map(|(name, remedy)| {
            format!("{name} leads to another machine without TLS: {remedy}, or set ALLOW_PLAINTEXT=true")
        })
        .collect()
}

/// Whether what is sent to this address can be read by others.
fn is_exposed(url: &str) -> bool {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let scheme = scheme.to_ascii_lowercase();
    // The client of Redis takes any certificate then.
    if ENCRYPTED.contains(&scheme.as_str()) && !rest.ends_with("#insecure") || LOCAL.contains(&scheme.as_str()) {
        return false;
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let authority = authority.split(['/', '#']).next().unwrap_or_default();
    let mut host = match authority.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    if scheme.starts_with("postgres") {
        // The last parameter of a name counts, and a host among them more than that of the address.
        let last = |names: [&str; 2]| {
            let mut parameters = query.split('&').filter_map(|parameter| parameter.split_once('='));
            parameters.rfind(|(name, _)| names.contains(name)).map(|(_, value)| value)
        };
        if last(["sslmode", "ssl-mode"]).is_some_and(|mode| VERIFIED.contains(&mode)) {
            return false;
        }
        host = last(["host", "hostaddr"]).unwrap_or(host);
    }
    let is_socket = host.starts_with('/') || host.to_ascii_lowercase().starts_with("%2f");
    let is_local = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    !is_socket && !is_local
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_is_for_this_machine_only() {
        for (name, url, is_wrong) in [
            ("NATS_URL", "nats://services:p@ss@127.0.0.1:4222", false),
            ("NATS_URL", "nats://services:secret@10.0.0.5:4222", true),
            ("NATS_URL", "tls://services:secret@10.0.0.5:4222", false),
            ("NATS_URL", "tls://a:b@10.0.0.5:4222, nats://a:b@10.0.0.6:4222", true),
            ("NATS_URL", "nats-1:4222", true),
            ("TIMER_URL", "http://127.0.0.1:8003", false),
            ("BID_PROCESSING_URL", "http://10.0.0.7:8002", true),
            ("AUCTION_MANAGEMENT_URL", "https://management.internal:8000", false),
            ("REDIS_URL", "redis://:secret@localhost:6379", false),
            ("REDIS_URL", "redis://:secret@localhost.example:6379/0", true),
            ("REDIS_URL", "redis://127.0.0.1@evil.example", true),
            ("REDIS_URL", "rediss://:secret@redis.example:6379", false),
            ("REDIS_URL", "rediss://:secret@redis.example:6379/#insecure", true),
            ("REDIS_URL", "redis+unix:///run/redis.sock", false),
            ("DATABASE_URL", "postgres://flash:flash@[::1]:5432/flash", false),
            ("DATABASE_URL", "postgres://flash:flash@db.example/flash", true),
            ("DATABASE_URL", "postgres://flash:flash@db.example/flash?sslmode=require", true),
            ("DATABASE_URL", "postgres://flash:flash@db.example/flash?sslmode=verify-full", false),
            ("DATABASE_URL", "postgres://f:f@db.example/f?sslrootcert=/ca.pem&sslmode=verify-ca", false),
            ("DATABASE_URL", "postgres://f:f@db.example/f?sslmode=verify-full&sslmode=disable", true),
            ("DATABASE_URL", "postgres:///flash?host=/run/postgresql", false),
            ("DATABASE_URL", "postgres://flash@%2Frun%2Fpostgresql/flash", false),
            ("DATABASE_URL", "postgres://flash:secret@localhost/flash?host=10.0.0.6", true),
            ("DATABASE_URL", "postgres://flash:secret@localhost/flash?hostaddr=127.0.0.1", false),
            ("AWS_ENDPOINT_URL", "http://aws:5000", true),
            ("JWKS_URL", "https://issuer.example/jwks.json", false),
        ] {
            let found = mistakes(|asked| (asked == name).then(|| url.to_owned()));
            assert_eq!(found.len(), usize::from(is_wrong), "{name}={url}: {found:?}");
            assert!(found.iter().all(|sentence| sentence.starts_with(name) && !sentence.contains("secret")));
        }
    }
}
