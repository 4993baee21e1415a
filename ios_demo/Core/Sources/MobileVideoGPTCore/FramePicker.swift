import Foundation

/// Indices, counted as decoded, of the frames that the release samples from a clip of `total` frames at `fps` frames a second.
///
/// Candidates are every `max(1, round(fps))`-th frame from 0, halves rounded to even. More than `frames`: those at NumPy's `linspace`,
/// truncated; fewer: up to `frames` from 0 with an even stride that reaches into the whole clip. Throws `videoWithoutFrames`.
public func pickFrames(total: Int, fps: Double, frames: Int = 16) throws -> [Int] {
    guard total > 0, frames > 0, !fps.isNaN else { throw VideoGPTError.videoWithoutFrames }
    let every = Int(min(max(1, fps.rounded(.toNearestOrEven)), Double(total)))
    let candidates = (total + every - 1) / every
    if candidates >= frames {
        return (0..<frames).map { linspace($0, last: candidates - 1, count: frames) * every }
    }
    let count = min(frames, total)
    let stride = count > 1 ? max(1, (total - 1) / (count - 1)) : 1
    return (0..<count).map { $0 * stride }
}

/// The i-th of `count` values from 0 to `last`, truncated, as NumPy computes it: i times the step, and the last one exactly.
private func linspace(_ i: Int, last: Int, count: Int) -> Int {
    if count > 1, i == count - 1 { return last }
    return count > 1 ? Int(Double(i) * (Double(last) / Double(count - 1))) : 0
}
