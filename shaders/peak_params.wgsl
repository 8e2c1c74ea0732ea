// What the shaders of peaks are told.
struct Params {
    // Times that a loop runs.
    turns: u32,
}
