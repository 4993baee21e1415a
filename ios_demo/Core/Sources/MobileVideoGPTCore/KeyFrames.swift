import Foundation

/// The `count` best frames of each chunk in time order: [chunks, frames] -> [chunks, count].
///
/// `topk` false takes the lowest scores. Scores within `tie` (relative) of the best one left tie with it, and a tie goes to the lower
/// index, so that every host language picks the same frames. Computed in double, as `export/model/frame_scorer.py` does.
public func selectKeyFrames(_ scores: [[Float]], topk: Bool, count: Int, tie: Double) -> [[Int]] {
    scores.map { row in
        let ranked = row.map { topk ? Double($0) : -Double($0) }
        var left = Array(ranked.indices)
        var chosen: [Int] = []
        for _ in 0..<min(count, ranked.count) {
            let best = left.map { ranked[$0] }.reduce(-Double.infinity, max)
            let at = left.firstIndex { ranked[$0] >= best - tie * abs(best) } ?? left.startIndex  // scores that are no numbers tie
            chosen.append(left.remove(at: at))
        }
        return chosen.sorted()
    }
}
