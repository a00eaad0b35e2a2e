//! What a daemon says of its lock-down on its admin socket: the same words for all of them.

use linux::{LayerState, Lockdown};
use serde_json::{Map, Value, json};

/// `{"layers": {NAME: "on" | "not used" | "partial: WHY" | "off: WHY"}, "landlock_abi", "filter_sha256"}`.
#[must_use]
pub fn describe(lockdown: &Lockdown) -> Value {
    let layers: Map<String, Value> =
        lockdown.layers.iter().map(|(layer, state)| (layer.name().to_owned(), words(state).into())).collect();
    json!({ "layers": layers, "landlock_abi": lockdown.landlock_abi, "filter_sha256": lockdown.filter_sha256 })
}

fn words(state: &LayerState) -> String {
    match state {
        LayerState::On => "on".to_owned(),
        LayerState::Partial(why) => format!("partial: {why}"),
        LayerState::Off(why) => format!("off: {why}"),
        LayerState::NotUsed => "not used".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use linux::Layer;

    use super::*;

    #[test]
    fn each_layer_says_how_it_is() {
        let lockdown = Lockdown {
            layers: vec![
                (Layer::Seccomp, LayerState::On),
                (Layer::Mdwe, LayerState::Off("Linux 6.3 has it".into())),
                (Layer::NoFileWrites, LayerState::NotUsed),
            ],
            landlock_abi: Some(6),
            filter_sha256: None,
        };
        let told = describe(&lockdown);
        assert_eq!(told["layers"]["seccomp"], "on");
        assert_eq!(told["layers"]["mdwe"], "off: Linux 6.3 has it");
        assert_eq!((&told["landlock_abi"], &told["filter_sha256"]), (&json!(6), &Value::Null));
    }
}
