import Foundation

/// What the self-test found on this device.
public struct SelfTestReport: Sendable, Equatable {
    /// One comparison of what this device computes with what the build stored; `detail` is for the user.
    public struct Check: Sendable, Equatable {
        public let name: String
        public let passed: Bool
        public let detail: String
    }

    /// `pixels`, `tokenizer` (where the bundle has one), `selected_frames`, `last_logits`, `greedy_ids`.
    public let checks: [Check]
    public let stagesSeconds: [String: Double]

    public var passed: Bool { checks.allSatisfy(\.passed) }
}

/// Computes on this device what the build stored beside the graphs, and compares: the resizers' pixels, the tokenizer's ids, and the whole
/// pipeline on the stored frames, with decoding fed by the model's own ids. `progress` gets a line for each part.
///
/// As in the build's parity check, key frames may differ where the reference's margin is within the measured error of the scores, and what
/// follows is then computed with the reference's; an id may differ where the two best logits are as near as the first step's logits were
/// off. That excuses few: where as many ids as on the building machine are equal, but for two. The decoder's cache is overwritten.
func runSelfTest(
    _ backend: any GraphBackend, _ golden: Golden, _ tokenizer: (any Tokenizing)?, clock: @escaping () -> Double = monotonicSeconds,
    progress: (String) -> Void = { _ in }
) throws -> SelfTestReport {
    let reference = try golden.reference()
    let timed = TimedBackend(backend, clock: clock)
    var checks = [try pixelCheck(golden, side: backend.manifest.preprocessing.imageSize)]
    if let tokenizer { checks.append(try tokenizerCheck(golden, tokenizer)) }
    progress("watching")
    let pixels = Pixels.of(reference.frames, backend.manifest.preprocessing)
    let seen = try visualTokens(timed, pixels, forced: reference.selectedFrames)
    checks.append(keyFrameCheck(seen, reference))
    timed.release(GraphName.vision)
    progress("answering")
    let embeds = try promptEmbeds(timed, reference.ids, seen.tokens)
    try checkFits(timed, position: 0, new: embeds.rows + reference.greedyIDs.count - 1)
    let first = try timed.decode(embeds, at: 0)
    guard first.count == reference.lastLogits.count else {
        throw VideoGPTError.graphFailed(graph: GraphName.decoder.rawValue, reason: "it gave \(first.count) logits")
    }
    let error = relativeError(first, reference.lastLogits, reference.metric)
    let detail = String(format: "error %.4f, at most %.4f", error, reference.threshold)
    checks.append(.init(name: "last_logits", passed: error <= reference.threshold, detail: detail))
    checks.append(try greedyCheck(timed, first, embeds.rows, reference))
    return SelfTestReport(checks: checks, stagesSeconds: timed.seconds)
}

private func pixelCheck(_ golden: Golden, side: Int) throws -> SelfTestReport.Check {
    let pictures = try golden.pictures()
    var furthest = 0
    for one in pictures {
        for (made, wanted) in [(clipImage(one.source, side: side), one.clip), (videoImage(one.source, side: side), one.video)] {
            let apart = made.count == wanted.count ? zip(made, wanted).map { abs(Int($0) - Int($1)) }.max() ?? 0 : 255
            furthest = max(furthest, apart)
        }
    }
    return .init(name: "pixels", passed: furthest <= 1, detail: "\(pictures.count) pictures, at most \(furthest) of 255 apart")
}

private func tokenizerCheck(_ golden: Golden, _ tokenizer: any Tokenizing) throws -> SelfTestReport.Check {
    let texts = try golden.texts()
    let wrong = try texts.first { text in
        var stream = TextStream(tokenizer)
        let pieces = try text.ids.map { try stream.step($0) }
        return try tokenizer.encode(text.text) != text.ids || !same(pieces, text.pieces) || !same([stream.flush()], [text.flushed])
    }
    let detail = wrong.map { "other ids or pieces of \($0.text.debugDescription)" } ?? "\(texts.count) texts equal"
    return .init(name: "tokenizer", passed: wrong == nil, detail: detail)
}

/// By bytes: Swift's String takes é and e with an accent for equal.
private func same(_ a: [String], _ b: [String]) -> Bool { a.map { Array($0.utf8) } == b.map { Array($0.utf8) } }

private func keyFrameCheck(_ seen: Seen, _ reference: GoldenReference) -> SelfTestReport.Check {
    let name = "selected_frames"
    let total = reference.selectedFrames.reduce(0) { $0 + $1.count }
    let frames = reference.frameScores.width
    var excused = 0
    for (chunk, wanted) in reference.selectedFrames.enumerated() {
        let missing = wanted.filter { !seen.selected[chunk].contains($0) }
        let instead = seen.selected[chunk].filter { !wanted.contains($0) }
        if missing.isEmpty { continue }
        let truth = Array(reference.frameScores.data[chunk * frames..<(chunk + 1) * frames])
        let measured = zip(truth, seen.frameScores[chunk]).map { abs($0 - $1) }.max() ?? .infinity
        // Each of two scores may be off by it, and near ties tie.
        let slack = 2 * measured + Float(scoreTie) * (truth.map { abs($0) }.max() ?? 0)
        let margin = missing.flatMap { i in instead.map { j in abs(truth[i] - truth[j]) } }.max() ?? .infinity
        guard margin <= slack else {  // nor where a score is no number
            return .init(name: name, passed: false, detail: "chunk \(chunk): \(seen.selected[chunk]) in place of \(wanted)")
        }
        excused += missing.count
    }
    let detail = excused == 0 ? "all \(total) equal" : "\(excused) of \(total) differ within the score error"
    return .init(name: name, passed: true, detail: detail)
}

/// Feeds the model's own ids, whatever comes out, and compares each step's best id.
///
/// A quantized decoder's logits are off by more than the best two are apart, another decoder's by more still, and all its ids would pass
/// for near ties. So their number counts: the same graphs ran on the building machine, and its arithmetic differs by a tie or two.
private func greedyCheck(
    _ backend: any GraphBackend, _ first: [Float], _ tokens: Int, _ reference: GoldenReference
) throws -> SelfTestReport.Check {
    let ids = reference.greedyIDs
    let slack = 2 * (zip(first, reference.lastLogits).map { abs($0 - $1) }.max() ?? 0)  // each of two logits may be off by it
    let sampler = Sampler()
    var (equal, excused, logits) = (0, 0, first)
    for (step, id) in ids.enumerated() {
        if step > 0 { logits = try backend.decode(embed(backend, [ids[step - 1]]), at: tokens + step - 1) }
        let best = try sampler(logits)
        if best == id { equal += 1 } else if logits[best] - logits[id] <= slack { excused += 1 }
    }
    let asBuilt = reference.equalIDs ?? ids.count
    let passed = equal + excused == ids.count && equal >= asBuilt - flips
    let detail = "\(equal) of \(ids.count) equal (\(asBuilt) when it was built), \(excused) near ties excepted"
    return .init(name: "greedy_ids", passed: passed, detail: detail)
}

/// Near ties that another processor's sums may turn round.
private let flips = 2

/// Relative, of scores: as the key frames are chosen.
private let scoreTie = 1e-5

/// Of logits [V]: `max`, the largest difference by the largest magnitude, or `row`, the norms' quotient. Not a number where a logit is
/// none, and no bound holds it.
private func relativeError(_ values: [Float], _ reference: [Float], _ metric: String) -> Double {
    let differences = zip(values, reference).map { Double($0) - Double($1) }
    guard differences.allSatisfy(\.isFinite) else { return .nan }
    if metric == "max" { return (differences.map { abs($0) }.max() ?? 0) / (reference.map { abs(Double($0)) }.max() ?? 0) }
    let norms = (differences.reduce(0) { $0 + $1 * $1 }, reference.reduce(0) { $0 + Double($1) * Double($1) })
    return (norms.0 / norms.1).squareRoot()
}
