//! Fixed keys, so that every run says the same bytes. They belong to nobody.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A key pair, in lower-case hex.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) private: &'static str,
    pub(crate) public: &'static str,
}

/// The program under test's.
pub(crate) const OWN: Pair = Pair {
    private: "f82b7c6c329e428d820d783b37729df338fecd0ed15f611c0d865e23084b1271",
    public: "3490290f7629247222cbe44340e103609ff1f3d099a4f6e79eb687259ea93648",
};

/// The reference's.
pub(crate) const OTHER: Pair = Pair {
    private: "507d2de50ec45d30a03aa95028af280d3e4ba39d1c20697779318646de88db5a",
    public: "766345d2d1d808334f8c6ae8f476bd574281f044f392caca9f13d6e55264f212",
};

/// A third one.
pub(crate) const THIRD: Pair = Pair {
    private: "908315436ca75176b13c3529e6e38e954c7a212d17fb4881be94fb66a147014d",
    public: "dc0643cdc76923c706ff4b23057ccd4c94c4843aa705750ef9805951f0f5f344",
};

/// A preshared key.
pub(crate) const PRESHARED: &str = "11f1b3d099a4f6e79eb687259ea936483490290f7629247222cbe44340e10360";

/// No key.
pub(crate) const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Points of low order on Curve25519, as in the kernel's netns.sh: a shared secret with them is zero.
pub(crate) const LOW_ORDER: [&str; 7] = [
    ZERO,
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

/// A key as `wg` writes it.
pub(crate) fn base64(hex: &str) -> String {
    STANDARD.encode(bytes(hex))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit =
        |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok()).unwrap_or(0);
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(*pair.last().unwrap_or(&0))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_becomes_base64() {
        assert_eq!(base64(ZERO), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        assert_eq!(base64(LOW_ORDER[4]), "7P///////////////////////////////////////38=");
    }
}
