//! Checkpoints: every layout, and every kind of bad input.

use calotype::checkpoint::{Checkpoint, Layout, Part};

#[test]
fn the_demo_opens_and_its_tensors_are_there() {
    let demo = Checkpoint::open("demo").unwrap();
    assert_eq!(demo.layout, Layout::Embedded);
    assert!(!demo.is_refiner());
    assert_eq!(demo.native_size(), 128);
    assert_eq!(demo.unet.norm_num_groups, 8);
    let unet = demo.source(Part::UNet);
    let view = unet.read("conv_in.weight", &[32, 4, 3, 3]).unwrap();
    assert_eq!(view.data.len(), 32 * 4 * 9 * 2);
    let refiner = Checkpoint::open("demo-refiner").unwrap();
    assert!(refiner.is_refiner() && refiner.requires_aesthetics_score);
    assert!(!refiner.force_zeros_for_empty_prompt);
}

#[test]
fn random_checkpoints_open() {
    assert_eq!(
        Checkpoint::open("random:sdxl-base").unwrap().native_size(),
        1024
    );
    assert!(
        Checkpoint::open("random:sdxl-refiner")
            .unwrap()
            .is_refiner()
    );
}
