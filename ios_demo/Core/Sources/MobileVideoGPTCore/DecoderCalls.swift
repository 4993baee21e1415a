import Foundation

/// One call of a decoder's function: rows of the embeddings that it takes, and where they stand in the cache.
public struct DecoderCall: Sendable, Equatable {
    public let function: String
    /// What the function takes; the rows are padded to it with zeros behind.
    public let tokens: Int
    public let rows: Range<Int>
    /// Tokens that the cache holds before the call.
    public let position: Int

    /// Row of the last token that is no padding. A function of one token has no such input.
    public var last: Int? { tokens > 1 ? rows.count - 1 : nil }
}

/// The rule of the manifest's `decoder.details`: at each point the function with the fewest tokens that takes all that are left, or else
/// the one with most; none that would write beyond the cache.
public struct DecoderCalls: Sendable {
    public let functions: [DecoderInterface.Function]
    public let slots: Int

    public init(_ decoder: DecoderInterface) {
        functions = decoder.functions
        slots = decoder.slots
    }

    /// The calls for `count` tokens behind `position`. Throws `promptInvalid` where they do not fit the cache.
    public func plan(_ count: Int, at position: Int) throws -> [DecoderCall] {
        var calls: [DecoderCall] = []
        var taken = 0
        while taken < count {
            let function = try function(left: count - taken, position: position + taken)
            let rows = taken..<min(count, taken + function.tokens)
            calls.append(DecoderCall(function: function.name, tokens: function.tokens, rows: rows, position: position + taken))
            taken = rows.upperBound
        }
        return calls
    }

    private func function(left: Int, position: Int) throws -> DecoderInterface.Function {
        let fitting = functions.filter { position + $0.tokens <= slots }
        let enough = fitting.filter { $0.tokens >= left }
        guard let function = enough.min(by: { $0.tokens < $1.tokens }) ?? fitting.max(by: { $0.tokens < $1.tokens }) else {
            throw VideoGPTError.promptInvalid("the conversation is \(position) tokens long, and the bundle's cache holds \(slots)")
        }
        return function
    }
}
