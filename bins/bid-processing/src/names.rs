//! The copy of the table's names, kept current in the background.

use admission::ShownNames;
use bus::{Bus, NamesEvent};

/// Keeps `names` current; the returned future runs until it is dropped.
///
/// # Errors
/// When NATS rejects the subscription.
pub async fn follow(bus: &Bus, names: ShownNames) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let following = bus::follow_names(bus, move |event| match event {
        NamesEvent::Named(people) => names.learn(people),
        NamesEvent::Complete => names.set_complete(true),
        NamesEvent::Incomplete => names.set_complete(false),
    });
    Ok(following.await?)
}
