//! The devices that draw, and which of them can now.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The devices of a service, known by their place.
pub struct Devices {
    stands: Mutex<Vec<Stand>>,
    /// The models that are loaded on each, by their places.
    loaded: Mutex<Vec<Vec<usize>>>,
    /// Which is lost at its next share.
    #[cfg(test)]
    doomed: Mutex<Option<usize>>,
}

/// Where a device stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stand {
    /// Its model is loaded, or it is opened again after it failed.
    Opening,
    /// It draws; pictures of devices of one kind are equal. It may stand for several.
    Ready { kind: String, width: usize },
    /// It draws no more.
    Gone,
}

impl Devices {
    /// `count` devices that are being opened.
    pub fn new(count: usize) -> Self {
        Self {
            stands: Mutex::new(vec![Stand::Opening; count]),
            loaded: Mutex::new(vec![Vec::new(); count]),
            #[cfg(test)]
            doomed: Mutex::default(),
        }
    }

    fn stands(&self) -> MutexGuard<'_, Vec<Stand>> {
        self.stands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loads(&self) -> MutexGuard<'_, Vec<Vec<usize>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which models, by their places, a device holds now; a front end's are those that its
    /// workers have.
    pub fn holds(&self, device: usize, models: Vec<usize>) {
        self.loads()[device] = models;
    }

    /// Whether a device holds this model.
    pub fn has_loaded(&self, model: usize) -> bool {
        self.loads().iter().any(|models| models.contains(&model))
    }

    pub fn len(&self) -> usize {
        self.stands().len()
    }

    /// A device can draw, and is of this kind: adapter, driver and precision. It stands for
    /// `width` devices.
    pub fn opened(&self, device: usize, kind: &str, width: usize) {
        let kind = kind.to_owned();
        self.stands()[device] = Stand::Ready { kind, width };
    }

    /// A device failed, and is opened again.
    pub fn lost(&self, device: usize) {
        self.stands()[device] = Stand::Opening;
        self.holds(device, Vec::new());
    }

    /// A device draws no more; whether it was the last one.
    pub fn ended(&self, device: usize) -> bool {
        let mut stands = self.stands();
        stands[device] = Stand::Gone;
        stands.iter().all(|stand| *stand == Stand::Gone)
    }

    /// How many can draw now.
    pub fn ready(&self) -> usize {
        self.stands().iter().map(Stand::width).sum()
    }

    /// Whether each can draw now.
    pub fn are_ready(&self) -> Vec<bool> {
        let ready = |stand: &Stand| matches!(stand, Stand::Ready { .. });
        self.stands().iter().map(ready).collect()
    }

    /// What a device that can draw is.
    pub fn kind(&self, device: usize) -> Option<String> {
        match self.stands().get(device)? {
            Stand::Ready { kind, .. } => Some(kind.clone()),
            _ => None,
        }
    }

    /// What those are that can draw.
    pub fn kinds(&self) -> Vec<String> {
        let kinds = self
            .stands()
            .iter()
            .map(|stand| match stand {
                Stand::Ready { kind, .. } => Some(kind.clone()),
                _ => None,
            })
            .collect::<Vec<_>>();
        kinds.into_iter().flatten().collect()
    }

    /// How many of this kind can draw now.
    pub fn of_kind(&self, wanted: &str) -> usize {
        let same = |stand: &&Stand| matches!(stand, Stand::Ready { kind, .. } if kind == wanted);
        self.stands().iter().filter(same).map(Stand::width).sum()
    }
}

impl Stand {
    fn width(&self) -> usize {
        match self {
            Stand::Ready { width, .. } => *width,
            _ => 0,
        }
    }
}

#[cfg(test)]
impl Devices {
    /// Lets a device be lost at its next share.
    pub fn doom(&self, device: usize) {
        *self.doomed.lock().unwrap() = Some(device);
    }

    pub fn is_doomed(&self, device: usize) -> bool {
        let mut doomed = self.doomed.lock().unwrap();
        doomed.take_if(|doomed| *doomed == device).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::Devices;

    #[test]
    fn devices_come_and_go() {
        let devices = Devices::new(3);
        assert_eq!((devices.ready(), devices.kind(1)), (0, None));
        devices.opened(0, "a", 1);
        devices.opened(1, "b", 1);
        devices.opened(2, "a", 1);
        assert_eq!((devices.ready(), devices.of_kind("a")), (3, 2));
        devices.lost(2);
        assert_eq!((devices.ready(), devices.of_kind("a")), (2, 1));
        assert_eq!(devices.are_ready(), [true, true, false]);
        devices.holds(1, vec![0, 2]);
        assert!(devices.has_loaded(2) && !devices.has_loaded(1));
        devices.lost(1);
        assert!(!devices.has_loaded(2));
        assert!(!devices.ended(2));
        assert!(!devices.ended(0));
        assert!(devices.ended(1));
    }
}
