//! The `calotype` program.

mod cli;

fn main() -> std::process::ExitCode {
    silence_mesas_device_select();
    cli::main()
}

/// Switches off Mesa's Vulkan layer that puts adapters in order: this program
/// chooses for itself, and the layer asks a Wayland server, which writes an error
/// to stderr where there is none. A user who sets the layer's own variable keeps it.
fn silence_mesas_device_select() {
    if std::env::var_os("MESA_VK_DEVICE_SELECT").is_none() {
        // SAFETY: this is the first thing that the program does; no other thread
        // exists that could read the environment meanwhile.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}
