//! The RMCP+ key exchange: its messages and its arithmetic, IPMI 2.0 sections 13.17 to 13.24.
//!
//! Pure. Invariant: the BMC has proved that it knows the password before [`Exchange::prove`]
//! returns, and that both sides hold the same session key before [`Proved::confirm`] does.

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Supported cipher suites, IPMI 2.0 table 22-20. Suite 0 protects nothing and is never offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CipherSuite {
    /// RAKP-HMAC-SHA1, HMAC-SHA1-96, AES-CBC-128.
    Three,
    /// RAKP-HMAC-SHA256, HMAC-SHA256-128, AES-CBC-128.
    Seventeen,
}

impl CipherSuite {
    /// Numbers of the authentication, integrity and confidentiality algorithms.
    fn algorithms(self) -> [u8; 3] {
        match self {
            CipherSuite::Three => [0x01, 0x01, 0x01],
            CipherSuite::Seventeen => [0x03, 0x04, 0x01],
        }
    }

    /// Keyed hash of the parts in sequence.
    pub fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        match self {
            CipherSuite::Three => hmac::<Hmac<Sha1>>(key, parts),
            CipherSuite::Seventeen => hmac::<Hmac<Sha256>>(key, parts),
        }
    }
}

fn hmac<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

/// Keys of an open session.
#[derive(Clone)]
pub struct SessionKeys {
    pub suite: CipherSuite,
    /// K1.
    pub integrity: Vec<u8>,
    /// The first 16 bytes of K2.
    pub confidentiality: [u8; 16],
}

impl SessionKeys {
    /// Authentication code of a packet, truncated as the suite says.
    pub fn sign(&self, signed: &[u8]) -> Vec<u8> {
        let mut code = self.suite.hmac(&self.integrity, &[signed]);
        code.truncate(self.suite.code_len());
        code
    }
}

impl std::fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionKeys").field("suite", &self.suite).finish_non_exhaustive()
    }
}

/// Reason why a message of the exchange is not the expected reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RakpError {
    /// Message of another session or another kind, or cut off: it is dropped and the wait goes on.
    Unrelated,
    /// The BMC refused with a status of IPMI 2.0 table 13-15.
    Status(u8),
    /// The BMC answered with algorithms that were not proposed.
    OtherAlgorithms,
    /// The authentication code shows that the BMC has another password.
    WrongSecret,
}

/// Builds the Open Session request, section 13.17.
pub fn open_request(tag: u8, privilege: u8, console_session: u32, suite: CipherSuite) -> Vec<u8> {
    let mut bytes = vec![tag, privilege, 0, 0];
    bytes.extend(console_session.to_le_bytes());
    for (kind, algorithm) in (0u8..).zip(suite.algorithms()) {
        bytes.extend([kind, 0, 0, 8, algorithm, 0, 0, 0]);
    }
    bytes
}

/// Reads the BMC's session id from the Open Session response.
pub fn open_response(
    bytes: &[u8],
    tag: u8,
    console_session: u32,
    suite: CipherSuite,
) -> Result<u32, RakpError> {
    let body = admit(bytes, tag, console_session, 36)?;
    let algorithm = |at: usize| body[at] & 0x3f;
    if [algorithm(16), algorithm(24), algorithm(32)] != suite.algorithms() {
        return Err(RakpError::OtherAlgorithms);
    }
    match le_u32(&body[8..12]) {
        0 => Err(RakpError::Unrelated),
        bmc_session => Ok(bmc_session),
    }
}

/// Values that both sides use in their codes, known once the BMC has named its session.
#[derive(Clone)]
pub struct Exchange {
    pub suite: CipherSuite,
    pub console_session: u32,
    pub bmc_session: u32,
    pub console_random: [u8; 16],
    /// Requested privilege with the name-only lookup bit, as RAKP 1 carries it.
    pub role: u8,
    pub user: Vec<u8>,
    pub password: SecretString,
}

impl Exchange {
    /// Builds RAKP message 1, section 13.20.
    pub fn rakp1(&self, tag: u8) -> Vec<u8> {
        let mut bytes = vec![tag, 0, 0, 0];
        bytes.extend(self.bmc_session.to_le_bytes());
        bytes.extend(self.console_random);
        bytes.extend([self.role, 0, 0, self.user.len() as u8]);
        bytes.extend(&self.user);
        bytes
    }

    /// Checks RAKP message 2 with the password and derives the keys, sections 13.21 and 13.31.
    pub fn prove(&self, bytes: &[u8], tag: u8) -> Result<Proved<'_>, RakpError> {
        let code_len = self.suite.hmac(b"", &[]).len();
        let body = admit(bytes, tag, self.console_session, 40 + code_len)?;
        let bmc_random: [u8; 16] = body[8..24].try_into().expect("16 bytes were cut out");
        let guid: [u8; 16] = body[24..40].try_into().expect("16 bytes were cut out");
        let role_and_name = self.role_and_name();
        let expected = self.hmac_password(&[
            &self.console_session.to_le_bytes(),
            &self.bmc_session.to_le_bytes(),
            &self.console_random,
            &bmc_random,
            &guid,
            &role_and_name,
        ]);
        if !bool::from(expected.ct_eq(&body[40..40 + code_len])) {
            return Err(RakpError::WrongSecret);
        }
        let session_key = self.hmac_password(&[&self.console_random, &bmc_random, &role_and_name]);
        Ok(Proved { exchange: self, bmc_random, guid, session_key })
    }

    /// Builds a RAKP message 3 that only ends the exchange, so that the BMC frees its slot.
    pub fn refuse(&self, tag: u8, status: u8) -> Vec<u8> {
        let mut bytes = vec![tag, status, 0, 0];
        bytes.extend(self.bmc_session.to_le_bytes());
        bytes
    }

    fn role_and_name(&self) -> Vec<u8> {
        let mut bytes = vec![self.role, self.user.len() as u8];
        bytes.extend(&self.user);
        bytes
    }

    /// Keyed hash with the password as key. The password also replaces the BMC's key (K_G is null):
    /// one-key logins, which fleets use.
    fn hmac_password(&self, parts: &[&[u8]]) -> Vec<u8> {
        self.suite.hmac(self.password.expose_secret().as_bytes(), parts)
    }
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("suite", &self.suite).finish_non_exhaustive()
    }
}

/// Exchange in which the BMC has proved that it knows the password.
pub struct Proved<'a> {
    exchange: &'a Exchange,
    bmc_random: [u8; 16],
    guid: [u8; 16],
    session_key: Vec<u8>,
}

impl Proved<'_> {
    /// Builds RAKP message 3, section 13.22.
    pub fn rakp3(&self, tag: u8) -> Vec<u8> {
        let mut bytes = self.exchange.refuse(tag, 0);
        bytes.extend(self.exchange.hmac_password(&[
            &self.bmc_random,
            &self.exchange.console_session.to_le_bytes(),
            &self.exchange.role_and_name(),
        ]));
        bytes
    }

    /// Checks RAKP message 4 with the session key, section 13.23.
    pub fn confirm(&self, bytes: &[u8], tag: u8) -> Result<SessionKeys, RakpError> {
        let suite = self.exchange.suite;
        let body = admit(bytes, tag, self.exchange.console_session, 8 + suite.code_len())?;
        let mut expected = suite.hmac(
            &self.session_key,
            &[&self.exchange.console_random, &self.exchange.bmc_session.to_le_bytes(), &self.guid],
        );
        expected.truncate(suite.code_len());
        if !bool::from(expected.ct_eq(&body[8..8 + suite.code_len()])) {
            return Err(RakpError::WrongSecret);
        }
        let k2 = suite.hmac(&self.session_key, &[&[2; 20]]);
        Ok(SessionKeys {
            suite,
            integrity: suite.hmac(&self.session_key, &[&[1; 20]]),
            confidentiality: k2[..16].try_into().expect("both digests are 20 bytes or longer"),
        })
    }
}

impl std::fmt::Debug for Proved<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proved").field("exchange", self.exchange).finish_non_exhaustive()
    }
}

/// Checks the parts that all replies of the exchange share: tag, status, and our session id (at
/// byte 4).
///
/// Tag 0 is accepted for any tag, because some BMCs answer with it; error replies may end after the
/// status or have no session id.
fn admit(bytes: &[u8], tag: u8, console_session: u32, least: usize) -> Result<&[u8], RakpError> {
    let [reply_tag, status, ..] = bytes else { return Err(RakpError::Unrelated) };
    if *reply_tag != tag && *reply_tag != 0 {
        return Err(RakpError::Unrelated);
    }
    let session = bytes.get(4..8).map(le_u32);
    if *status != 0 {
        let ours = session.is_none_or(|id| id == console_session || id == 0);
        return Err(if ours { RakpError::Status(*status) } else { RakpError::Unrelated });
    }
    if session != Some(console_session) || bytes.len() < least {
        return Err(RakpError::Unrelated);
    }
    Ok(bytes)
}

fn le_u32(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Results of Python's hmac module for password `secret`, user `admin`, the ids and randoms of
    /// [`exchange`], BMC random 20..2f and GUID 40..4f.
    struct KnownAnswer {
        suite: CipherSuite,
        rakp2: &'static str,
        rakp3: &'static str,
        icv: &'static str,
        k1: &'static str,
        k2: &'static str,
    }

    const KNOWN: [KnownAnswer; 2] = [
        KnownAnswer {
            suite: CipherSuite::Three,
            rakp2: "681ccd0cf73136f5342e21e99bf85ebe5c699024",
            rakp3: "5e53d689e8158e0b7d681f06c255b60797dd4c3a",
            icv: "7143c3018b3f571e4f261793",
            k1: "63a92826dd5e6265a94315929e816c08be3238f7",
            k2: "6767e05c021d93247f03d235689f5411",
        },
        KnownAnswer {
            suite: CipherSuite::Seventeen,
            rakp2: "e73e0c89bb1030384a85e479f356a7b7aedf6dc489e905c69b7ac7a8e757b254",
            rakp3: "56a2878d5ed23083fd143e3a499cc0755e3636b5b4b8e4eb95f40ea804ef30ad",
            icv: "315ac76f75c40ca0269baf307fcb4a8b",
            k1: "c7e0a60427e74c85831151f2ab9d644da60e01d62777a2637e6218d423ffe062",
            k2: "342f127fc06133ccec5b128c63fdec65",
        },
    ];

    fn exchange(suite: CipherSuite) -> Exchange {
        Exchange {
            suite,
            console_session: 0xa1a2_a3a4,
            bmc_session: 0xb1b2_b3b4,
            console_random: std::array::from_fn(|i| 0x10 + i as u8),
            role: 0x14,
            user: b"admin".to_vec(),
            password: "secret".into(),
        }
    }

    fn rakp2(tag: u8, code: &str) -> Vec<u8> {
        let mut bytes = vec![tag, 0, 0, 0, 0xa4, 0xa3, 0xa2, 0xa1];
        bytes.extend(0x20..0x30);
        bytes.extend(0x40..0x50);
        bytes.extend(hex::decode(code).unwrap());
        bytes
    }

    fn rakp4(tag: u8, code: &str) -> Vec<u8> {
        let mut bytes = vec![tag, 0, 0, 0, 0xa4, 0xa3, 0xa2, 0xa1];
        bytes.extend(hex::decode(code).unwrap());
        bytes
    }

    fn open_reply(suite: CipherSuite) -> Vec<u8> {
        let mut bytes = open_request(1, 0, 0xa1a2_a3a4, suite);
        bytes.splice(8..8, 0xb1b2_b3b4u32.to_le_bytes());
        bytes
    }

    #[test]
    fn the_open_session_request_has_the_specified_layout() {
        assert_eq!(
            hex::encode(open_request(1, 4, 0xa1a2_a3a4, CipherSuite::Seventeen)),
            "01040000a4a3a2a1000000080300000001000008040000000200000801000000"
        );
        assert_eq!(
            hex::encode(open_request(2, 3, 1, CipherSuite::Three)),
            "0203000001000000000000080100000001000008010000000200000801000000"
        );
    }

    #[test]
    fn rakp1_has_the_specified_layout_and_the_name_only_bit() {
        assert_eq!(
            hex::encode(exchange(CipherSuite::Three).rakp1(3)),
            "03000000b4b3b2b1101112131415161718191a1b1c1d1e1f1400000561646d696e"
        );
    }

    #[test]
    fn the_open_session_response_is_read_and_a_downgrade_is_seen() {
        let good = open_reply(CipherSuite::Seventeen);
        let read = |bytes: &[u8], suite| open_response(bytes, 1, 0xa1a2_a3a4, suite);
        assert_eq!(read(&good, CipherSuite::Seventeen), Ok(0xb1b2_b3b4));
        assert_eq!(read(&good, CipherSuite::Three), Err(RakpError::OtherAlgorithms));
        assert_eq!(read(&[1, 0x04], CipherSuite::Three), Err(RakpError::Status(0x04)), "two bytes");
        assert_eq!(read(&[0, 0x01], CipherSuite::Three), Err(RakpError::Status(0x01)), "tag 0");
        assert_eq!(read(&[2, 0x01], CipherSuite::Three), Err(RakpError::Unrelated), "other tag");
        assert_eq!(
            open_response(&good, 1, 0xa1a2_a3a5, CipherSuite::Seventeen),
            Err(RakpError::Unrelated),
            "other session"
        );
    }

    #[test]
    fn known_answers() {
        for known in KNOWN {
            let exchange = exchange(known.suite);
            for tag in [7, 0] {
                let proved = exchange.prove(&rakp2(tag, known.rakp2), 7).unwrap();
                let rakp3 = proved.rakp3(8);
                assert_eq!(hex::encode(&rakp3[..8]), "08000000b4b3b2b1");
                assert_eq!(hex::encode(&rakp3[8..]), known.rakp3);
                let keys = proved.confirm(&rakp4(tag, known.icv), 7).unwrap();
                assert_eq!(hex::encode(&keys.integrity), known.k1);
                assert_eq!(hex::encode(keys.confidentiality), known.k2);
            }
        }
    }

    #[test]
    fn another_password_is_told_from_an_unrelated_message() {
        for known in KNOWN {
            let mut other = exchange(known.suite);
            other.password = "Secret".into();
            assert_eq!(
                other.prove(&rakp2(7, known.rakp2), 7).map(|_| ()).unwrap_err(),
                RakpError::WrongSecret
            );
            let right = exchange(known.suite);
            let proved = right.prove(&rakp2(7, known.rakp2), 7).unwrap();
            let mut wrong = rakp4(7, known.icv);
            wrong[8] ^= 1;
            assert_eq!(proved.confirm(&wrong, 7).unwrap_err(), RakpError::WrongSecret);
            assert_eq!(proved.confirm(&rakp4(9, known.icv), 7).unwrap_err(), RakpError::Unrelated);
            assert_eq!(
                right.prove(&[7, 0x0d], 7).map(|_| ()).unwrap_err(),
                RakpError::Status(0x0d)
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            cut in 0usize..80,
        ) {
            for known in KNOWN {
                let exchange = exchange(known.suite);
                let _ = open_response(&bytes, 7, 0xa1a2_a3a4, known.suite);
                let _ = exchange.prove(&bytes, 7);
                let good = rakp2(7, known.rakp2);
                let proved = exchange.prove(&good, 7).unwrap();
                let _ = proved.confirm(&bytes, 7);
                let short = &good[..cut.min(good.len() - 1)];
                prop_assert_eq!(exchange.prove(short, 7).map(|_| ()), Err(RakpError::Unrelated));
                let last = open_reply(known.suite);
                let short = &last[..cut.min(last.len() - 1)];
                prop_assert_eq!(
                    open_response(short, 1, 0xa1a2_a3a4, known.suite),
                    Err(RakpError::Unrelated)
                );
            }
        }
    }
}
