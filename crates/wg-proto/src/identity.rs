//! Our static key and what guards it: the first MAC, cookies under load, and who an initiation is from.
//!
//! **Invariant:** no handshake message reaches a session before it passed [`Identity::admit`].

use std::net::IpAddr;
use std::time::Instant;

use boringtun::noise::TunnResult;
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519;

use crate::limits::from_the_specification::COOKIE_REPLY_BYTES;
use crate::load::Load;
use crate::noise::agree;
use crate::noise::handshake::Parties;
use crate::noise::initiation::{Initiation, Initiator};
use crate::secrets::{forget, kept};
use crate::{DropReason, PresharedKey, PublicKey, SecretKey};

/// A static key in use.
pub(crate) struct Identity {
    secret: SecretKey,
    public: PublicKey,
    x25519_secret: Box<x25519::StaticSecret>,
    x25519_public: x25519::PublicKey,
    /// A limiter that always limits: it makes cookies, and checks the second MAC against them.
    cookies: RateLimiter,
    /// Checks the first MAC alone.
    unlimited: RateLimiter,
}

/// What became of a handshake message at the gate.
pub(crate) enum Admission<'a> {
    Pass,
    /// Under load: answer with this, and drop the message.
    Cookie(&'a [u8]),
    Refuse(DropReason),
}

impl Identity {
    pub(crate) fn new(secret: SecretKey) -> Identity {
        let x25519_secret = kept(|| Box::new(secret.to_x25519()));
        let x25519_public = x25519::PublicKey::from(&*x25519_secret);
        forget();
        Identity {
            public: PublicKey::from_bytes(*x25519_public.as_bytes()),
            cookies: RateLimiter::new(&x25519_public, 0),
            unlimited: RateLimiter::new(&x25519_public, u64::MAX),
            secret,
            x25519_secret,
            x25519_public,
        }
    }

    pub(crate) fn secret(&self) -> &SecretKey {
        &self.secret
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.public
    }

    /// Whether a key agreement with this peer can give a secret.
    pub(crate) fn can_agree_with(&self, peer: &PublicKey) -> bool {
        let peer = x25519::PublicKey::from(*peer.as_bytes());
        let can_agree = agree(&self.x25519_secret, &peer).is_ok();
        forget();
        can_agree
    }

    /// What handshakes with this peer begin with.
    pub(crate) fn with(&self, peer: &PublicKey, preshared: Option<&PresharedKey>) -> Box<Parties> {
        Parties::kept(&self.x25519_secret, self.x25519_public, peer, preshared)
    }

    /// Checks the MACs of an initiation or a response; the second only under load, and only if the sender is
    /// over what it may send without.
    pub(crate) fn admit<'a>(
        &self,
        message: &[u8],
        from: IpAddr,
        load: &mut Load,
        now: Instant,
        cookie: &'a mut [u8; COOKIE_REPLY_BYTES],
    ) -> Admission<'a> {
        if let Err(result) = self.unlimited.verify_packet(Some(from), message, &mut []) {
            return refusal(result);
        }
        if load.takes_unproven(from, now) {
            return Admission::Pass;
        }
        match self.cookies.verify_packet(Some(from), message, cookie) {
            Ok(_) if load.takes_proven(from, now) => Admission::Pass,
            Ok(_) => Admission::Refuse(DropReason::HandshakeAllowance),
            Err(result) => refusal(result),
        }
    }

    /// Opens an initiation far enough to see the sender's static key.
    pub(crate) fn initiator_of(&self, message: &[u8]) -> Result<Initiator, DropReason> {
        let initiator = Initiator::open(&self.x25519_secret, &self.x25519_public, message);
        forget();
        initiator
    }

    /// Opens the rest, which only the holder of that key can have made.
    pub(crate) fn prove(&self, initiator: Initiator) -> Result<Initiation, DropReason> {
        let initiation = initiator.prove(&self.x25519_secret);
        forget();
        initiation
    }
}

fn refusal(result: TunnResult<'_>) -> Admission<'_> {
    match result {
        TunnResult::WriteToNetwork(reply) => Admission::Cookie(reply),
        TunnResult::Err(WireGuardError::InvalidMac) => Admission::Refuse(DropReason::Mac1Invalid),
        TunnResult::Err(_)
        | TunnResult::Done
        | TunnResult::WriteToTunnelV4(..)
        | TunnResult::WriteToTunnelV6(..) => Admission::Refuse(DropReason::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::our_choice::SCRATCH_BYTES;
    use boringtun::noise::Tunn;

    #[test]
    fn under_load_a_cookie_proves_the_address_and_lets_the_handshake_through() {
        let ours = Identity::new(SecretKey::generate().unwrap());
        let theirs = SecretKey::generate().unwrap().to_x25519();
        let mut peer = Tunn::new(theirs, ours.x25519_public, None, None, 1, None);
        let mut scratch = vec![0; SCRATCH_BYTES];
        let mut initiate = |peer: &mut Tunn| {
            let result = peer.format_handshake_initiation(&mut scratch, true);
            let TunnResult::WriteToNetwork(initiation) = result else { panic!("{result:?}") };
            initiation.to_vec()
        };
        let first = initiate(&mut peer);

        let (mut load, now, mut cookie) = (Load::default(), now(), [0; COOKIE_REPLY_BYTES]);
        let address = IpAddr::from([192, 0, 2, 1]);
        let mut reply = None;
        for _ in 0..1000 {
            if let Admission::Cookie(bytes) = ours.admit(&first, address, &mut load, now, &mut cookie) {
                reply = Some(bytes.to_vec());
            }
        }
        let reply = reply.expect("1000 in one moment are load");
        assert!(matches!(peer.decapsulate(None, &reply, &mut [0; 256]), TunnResult::Done));

        let proven = initiate(&mut peer);
        let mut admit = |from| ours.admit(&proven, from, &mut load, now, &mut cookie).name();
        assert_eq!(admit(address), "pass");
        // The proof is of this address alone, and it does not buy more than the allowance.
        assert_eq!([0; 6].map(|_| admit(IpAddr::from([192, 0, 2, 2])))[5], "cookie");
        assert_eq!([0; 5].map(|_| admit(address))[4], "HandshakeAllowance");
    }

    impl Admission<'_> {
        fn name(&self) -> String {
            match self {
                Admission::Pass => "pass".to_owned(),
                Admission::Cookie(_) => "cookie".to_owned(),
                Admission::Refuse(reason) => format!("{reason:?}"),
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the test's one origin of time")]
    fn now() -> Instant {
        Instant::now()
    }
}
