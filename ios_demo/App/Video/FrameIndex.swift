import Foundation

/// A coded frame as the container has it, in decode order. Times are in ticks of the index's timescale.
struct CodedFrame: Equatable {
    let pts: Int64
    let duration: Int64
    /// Decoding can begin here.
    let isKeyframe: Bool
    /// False for what a player passes over, such as a frame before the cut of an edited video.
    let isShown: Bool
}

/// Every frame of a video in display order, known without decoding one: the twin of `runtime_py/video_index.py`, which counts frames and
/// their rate in the same way, so that both sample the same frames.
struct FrameIndex: Equatable, Sendable {
    struct Keyframe: Equatable, Sendable {
        let position: Int
        let pts: Int64
    }

    /// When each frame is shown, in ticks, ascending.
    let pts: [Int64]
    /// Where each of them stands in decode order.
    let positions: [Int]
    /// In decode order.
    let keyframes: [Keyframe]
    /// Ticks a second.
    let timescale: Int32
    /// Ticks: when the last frame's time is over.
    let end: Int64
    /// What the container says, nil where it says nothing.
    let declaredRate: Double?

    /// nil where nothing is shown. What stands before the first keyframe, or is shown before it, refers to pictures that are not there.
    init?(_ frames: [CodedFrame], timescale: Int32, declaredRate: Double?) {
        var keyframes = frames.enumerated().filter(\.element.isKeyframe).map { Keyframe(position: $0.offset, pts: $0.element.pts) }
        var shown = frames.enumerated().filter(\.element.isShown)
            .map { (pts: $0.element.pts, position: $0.offset, duration: $0.element.duration) }
        if let first = keyframes.first {
            shown = shown.filter { $0.pts >= first.pts && $0.position >= first.position }
        } else if let earliest = shown.map(\.pts).min() {
            keyframes = [Keyframe(position: 0, pts: earliest)]  // none is marked: then only the beginning is sure
        }
        shown.sort { ($0.pts, $0.position) < ($1.pts, $1.position) }
        guard let last = shown.last, timescale > 0 else { return nil }
        pts = shown.map(\.pts)
        positions = shown.map(\.position)
        self.keyframes = keyframes
        self.timescale = timescale
        let lastTicks = last.duration > 0 ? last.duration : shown.count > 1 ? last.pts - shown[shown.count - 2].pts : 0
        end = last.pts + lastTicks
        self.declaredRate = declaredRate.flatMap { $0 > 0 ? $0 : nil }
    }

    var durationSeconds: Double { seconds(end - pts[0]) }

    /// When a frame is shown, in seconds from the first one on.
    func time(of frame: Int) -> Double { seconds(pts[frame] - pts[0]) }

    /// Average frames a second. Where that differs from the declared rate by no more than the rounding of timestamps, the declared rate is
    /// the exact one.
    var rate: Double {
        let ticks = end - pts[0]
        if let declaredRate, abs(Double(pts.count) / declaredRate - seconds(ticks)) <= seconds(2) { return declaredRate }
        return ticks > 0 ? Double(pts.count) / seconds(ticks) : declaredRate ?? 1
    }

    /// The number of the keyframe from which a frame decodes: the last one that neither follows it nor is shown after it. A frame that is
    /// coded after a keyframe but shown before it (open GOP) also refers to the group before.
    func keyframe(for frame: Int) -> Int {
        var number = max(0, keyframes.firstIndexBisecting { $0.position > positions[frame] } - 1)
        while number > 0 && keyframes[number].pts > pts[frame] { number -= 1 }
        return number
    }

    /// Frames by ascending number, cut into runs that decode from one keyframe: a run is read on without a new start.
    func runs(of picked: [Int]) -> [[Int]] {
        var runs: [[Int]] = []
        for frame in picked {
            if let first = runs.last?.first, keyframe(for: first) == keyframe(for: frame) {
                runs[runs.count - 1].append(frame)
            } else {
                runs.append([frame])
            }
        }
        return runs
    }

    /// The frame whose time is nearest to `pts`.
    func nearest(to pts: Int64) -> Int {
        let after = self.pts.firstIndexBisecting { $0 >= pts }
        return [after - 1, after].filter(self.pts.indices.contains).min { abs(self.pts[$0] - pts) < abs(self.pts[$1] - pts) } ?? 0
    }

    private func seconds(_ ticks: Int64) -> Double { Double(ticks) / Double(timescale) }
}

extension Array {
    /// The first index whose element and all behind it satisfy `predicate`, by bisection.
    fileprivate func firstIndexBisecting(_ predicate: (Element) -> Bool) -> Int {
        var (low, high) = (0, count)
        while low < high {
            let middle = (low + high) / 2
            if predicate(self[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
