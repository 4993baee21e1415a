import Foundation

/// What the whole pipeline makes of the bundle's golden frames on this device, beside what the eager model makes of them.
public struct SelfTestReport: Sendable, Equatable {
    /// [2, 4], within chunks.
    public let selectedFrames: [[Int]]
    /// Of 8: key frames that are not the reference's.
    public let otherFrames: Int
    /// The norm of the difference of the logits behind the prompt by the norm of the reference's, and its bound.
    public let logitsError: Double
    public let threshold: Double
    /// Greedy steps fed with the reference's ids, and how many of them chose another id.
    public let steps: Int
    public let otherSteps: Int
    /// Golden texts, and those whose ids or streamed text are not Python's; 0 of 0 without a tokenizer.
    public let texts: Int
    public let otherTexts: Int
    public let stagesSeconds: [String: Double]

    /// The logits lie within their bound, and all texts are Python's. Other frames or steps are near ties then.
    public var passed: Bool { logitsError <= threshold && otherTexts == 0 }

    /// One line for the user.
    public var line: String {
        let parts = [
            "key frames \(otherFrames == 0 ? "equal" : "differ in \(otherFrames)")",
            String(format: "logits off by %.4f of %.4f allowed", logitsError, threshold), "\(steps - otherSteps) of \(steps) steps equal",
            "\(texts - otherTexts) of \(texts) texts equal",
        ]
        return (passed ? "passed: " : "failed: ") + parts.joined(separator: ", ")
    }
}

/// Tokenizes the golden texts, watches the reference's frames and takes its greedy steps, teacher-forced. `progress` gets a line for each
/// part.
func runSelfTest(
    _ backend: any GraphBackend, _ golden: Golden, _ tokenizer: (any Tokenizing)?, clock: @escaping () -> Double = monotonicSeconds,
    progress: (String) -> Void = { _ in }
) throws -> SelfTestReport {
    let reference = try golden.reference()
    let texts = try tokenizer.map { tokenizer in try golden.texts().map { try matches($0, tokenizer) } } ?? []
    let timed = TimedBackend(backend, clock: clock)
    progress("watching")
    let seen = try visualTokens(timed, Pixels.of(reference.frames, backend.manifest.preprocessing))
    timed.release(GraphName.vision)
    progress("answering")
    let embeds = try promptEmbeds(timed, reference.ids, seen.tokens)
    try checkFits(timed, position: 0, new: embeds.rows + reference.greedyIDs.count - 1)
    var logits = try timed.decode(embeds, at: 0)
    guard logits.count == reference.lastLogits.count else {
        throw VideoGPTError.graphFailed(graph: GraphName.decoder.rawValue, reason: "it gave \(logits.count) logits")
    }
    let error = relativeError(logits, reference.lastLogits)
    let sampler = Sampler()
    var other = 0
    for (step, id) in reference.greedyIDs.enumerated() {
        if try sampler(logits) != id { other += 1 }
        guard step + 1 < reference.greedyIDs.count else { break }
        logits = try timed.decode(embed(timed, [id]), at: embeds.rows + step)
    }
    let differing = zip(seen.selected, reference.selectedFrames).reduce(0) { $0 + Set($1.0).subtracting($1.1).count }
    return SelfTestReport(
        selectedFrames: seen.selected, otherFrames: differing, logitsError: error, threshold: reference.threshold,
        steps: reference.greedyIDs.count, otherSteps: other, texts: texts.count, otherTexts: texts.count { !$0 },
        stagesSeconds: timed.seconds)
}

/// Whether a text has Python's ids, and these Python's text in the same pieces.
private func matches(_ text: GoldenText, _ tokenizer: any Tokenizing) throws -> Bool {
    var stream = TextStream(tokenizer)
    let pieces = try text.ids.map { try stream.step($0) }
    return try tokenizer.encode(text.text) == text.ids && pieces == text.pieces && stream.flush() == text.flushed
}

private func relativeError(_ values: [Float], _ reference: [Float]) -> Double {
    func norm(_ squares: Double) -> Double { squares.squareRoot() }
    let difference = zip(values, reference).reduce(0) { $0 + pow(Double($1.0) - Double($1.1), 2) }
    return norm(difference) / norm(reference.reduce(0) { $0 + pow(Double($1), 2) })
}
