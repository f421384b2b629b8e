//! Signatures of tokens by ring, which TLS uses already. The provider that comes with `jsonwebtoken` uses the crate
//! `rsa`, whose private-key operations take a time that depends on the key (RUSTSEC-2023-0071).

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::rand::SystemRandom;
use ring::rsa::{KeyPair, PublicKeyComponents};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| match algorithm {
        Algorithm::RS256 => Ok(Box::new(Rs256Signer(key.clone()))),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    },
    verifier_factory: |algorithm, key| match algorithm {
        Algorithm::RS256 => Ok(Box::new(Rs256Verifier(key.clone()))),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    },
    key_utils: KeyUtils { rsa_pub_components_from_private_key, ..KeyUtils::new_unimplemented() },
};

/// Makes ring the provider of this process. Repeatable.
pub(crate) fn install() {
    // It fails if the process has this provider already.
    _ = PROVIDER.install_default();
}

struct Rs256Verifier(DecodingKey);

impl Verifier<Vec<u8>> for Rs256Verifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        // Keys come from a JWKS, which has no other form.
        let DecodingKeyKind::RsaModulusExponent { n, e } = self.0.kind() else { return Err(signature::Error::new()) };
        let key = PublicKeyComponents { n: without_leading_zeros(n), e: without_leading_zeros(e) };
        key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).map_err(|_| signature::Error::new())
    }
}

/// The same number. Some issuers write a zero before it, which ring does not take.
fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    &number[first..]
}

impl JwtVerifier for Rs256Verifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}

/// Signs tokens of development keys.
struct Rs256Signer(EncodingKey);

impl Signer<Vec<u8>> for Rs256Signer {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        let key = KeyPair::from_der(self.0.as_bytes()).map_err(|_| signature::Error::new())?;
        let mut signed = vec![0; key.public().modulus_len()];
        let random = SystemRandom::new();
        key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signed).map_err(|_| signature::Error::new())?;
        Ok(signed)
    }
}

impl JwtSigner for Rs256Signer {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}

fn rsa_pub_components_from_private_key(key: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let key = KeyPair::from_der(key).map_err(|error| ErrorKind::InvalidRsaKey(error.to_string()))?;
    let PublicKeyComponents { n, e } = PublicKeyComponents::from(key.public());
    Ok((n, e))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jsonwebtoken::crypto;

    use super::*;

    // Made by `openssl genrsa 2048` and `openssl dgst -sha256 -sign`.
    const MODULUS: &str = concat!(
        "2YZn4WvZTpIzXhYXy8bZ7f5Vz9kdzcei2BKPwaMF1c1Ec1YLi9_wC5MDbJVgjfkvlVWPRSerw121yCwrASdONgRX_0DpcWohCj4c",
        "o5EWKEgs9UnMUV1dFUG36dsUrK7uJInSEhLS5UIhOJip7WdXyUiCWoALnwG-LEAh22mzlzsPv9f2G_1jvYghyvqvenUcLphfqnwY",
        "N3tliByxEbSeQLpsRRL1xT1jeriUCCDZ3RQ_ArIBNAx5gHkUTUB1srr5JlnFgqtYU2Lx6Z-xGRlR95ac_vOTkI7zLWOmNFeCnUdU",
        "xn1qMmSNzNrvRNf2-9-7n61Joqo2N9P3BatlMdF3Zw",
    );
    const SIGNATURE: &str = concat!(
        "VEziRuF9ltUJ87-GuGS4wkt-cgnbHDG4QZehu73dTrgTZm2GIHlZNrTIN2VM1mybMsHHr_pZTsTxMECtAS_NXXtW4kcUc-phXmqC",
        "8ps11a3r2uhVbHtcvUOgjqpDaeXItnsM5KWIHvncSOjqw-l228lOwlsn0gCwriUh63XIbLBlpkkbax2Y9wwSC0w6eLXfmpxbR1EB",
        "RyhP0ENhrD0ogFaXCz40QEskuxlTE1UlrgD8sVHOULHoN4nNmFIlyPAHJOtDxwJ3SpifX0C-mFx41pJnKglUyHF5y1qPA5MoPBp9",
        "KRIMGnH0jfTEZADemKrg69yh2F3mHS7zI0fU70QmxQ",
    );

    fn key(modulus: &[u8]) -> DecodingKey {
        DecodingKey::from_rsa_raw_components(modulus, &[1, 0, 1])
    }

    #[test]
    fn signature_of_another_implementation_is_verified() {
        install();
        install();
        let modulus = URL_SAFE_NO_PAD.decode(MODULUS).expect("base64");
        let verify = |message: &[u8], key: &DecodingKey| crypto::verify(SIGNATURE, message, key, Algorithm::RS256);
        assert!(verify(b"a message", &key(&modulus)).expect("verified"));
        assert!(verify(b"a message", &key(&[&[0, 0], &modulus[..]].concat())).expect("verified"));
        assert!(!verify(b"another message", &key(&modulus)).expect("verified"));
        let mut other = modulus;
        other[100] ^= 1;
        assert!(!verify(b"a message", &key(&other)).expect("verified"));
        assert!(crypto::verify(SIGNATURE, b"a message", &key(&other), Algorithm::RS512).is_err());
        assert!(crypto::sign(b"a message", &EncodingKey::from_secret(b"secret"), Algorithm::HS256).is_err());
    }
}
