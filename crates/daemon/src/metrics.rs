//! Metrics that every daemon has: what was built, and how it is locked down.

use linux::{LayerState, Lockdown};
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};

/// Registers `PREFIX_build_info{version,revision,rustc}` = 1.
pub fn build_info(registry: &Registry, prefix: &str) -> prometheus::Result<()> {
    let options = Opts::new(format!("{prefix}_build_info"), "What this program was built from; always 1.")
        .const_label("version", env!("CARGO_PKG_VERSION"))
        .const_label("revision", option_env!("CULVERT_REVISION").unwrap_or("unknown"))
        .const_label("rustc", option_env!("CULVERT_RUSTC").unwrap_or("unknown"));
    let gauge = IntGauge::with_opts(options)?;
    gauge.set(1);
    registry.register(Box::new(gauge))
}

/// Registers `PREFIX_lockdown{layer}`: 1 on, 0 off or partial; and the Landlock ABI and filter sum as info.
pub fn lockdown(registry: &Registry, prefix: &str, lockdown: &Lockdown) -> prometheus::Result<()> {
    let layers = IntGaugeVec::new(
        Opts::new(format!("{prefix}_lockdown"), "Layers of the lock-down that are on, as known at the seal."),
        &["layer"],
    )?;
    for (layer, state) in &lockdown.layers {
        match state {
            LayerState::On => layers.with_label_values(&[layer.name()]).set(1),
            LayerState::Partial(_) | LayerState::Off(_) => layers.with_label_values(&[layer.name()]).set(0),
            LayerState::NotUsed => {}
        }
    }
    registry.register(Box::new(layers))?;
    let options =
        Opts::new(format!("{prefix}_lockdown_info"), "Landlock ABI of the kernel and filter sum; always 1.")
            .const_label("landlock_abi", lockdown.landlock_abi.map_or("none".into(), |abi| abi.to_string()))
            .const_label("filter_sha256", lockdown.filter_sha256.clone().unwrap_or_else(|| "none".into()));
    let info = IntGauge::with_opts(options)?;
    info.set(1);
    registry.register(Box::new(info))
}
