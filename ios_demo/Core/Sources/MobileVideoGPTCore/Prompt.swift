import Foundation

/// The prompt of the release: ChatML around the visual placeholders, tokenized piece by piece, from the pieces in the manifest.
///
/// First turn: system, user, `image` once a frame, "\n", question, `endOfTurn`, "\n", assistant. Later turns: `endOfTurn`, "\n", user,
/// question, `endOfTurn`, "\n", assistant. `image` stands for `placeholderID`; a run of it, of any length, is one placeholder for all
/// visual tokens.
public struct PromptTemplate: Sendable, Equatable {
    public let system: String
    public let user: String
    public let image: String
    public let endOfTurn: String
    public let assistant: String
    public let placeholderID: Int
    public let stopIDs: [Int]

    init(_ place: Place) throws {
        let all = try place.object("system", "user", "image", "end_of_turn", "assistant", "placeholder_id", "stop_ids")
        system = try all["system"].string()
        user = try all["user"].string()
        image = try all["image"].name()
        endOfTurn = try all["end_of_turn"].name()
        assistant = try all["assistant"].string()
        placeholderID = try all["placeholder_id"].int()
        stopIDs = try all["stop_ids"].list { try $0.int(from: 0) }
    }

    /// The text of a conversation's first turn, up to where the answer begins. A run of placeholders is one: one mark does.
    func firstTurn(_ question: String) -> String { "\(system)\(user)\(image)\n\(escape(question))\(endOfTurn)\n\(assistant)" }

    /// The text after an answer, whose own end-of-turn token is not in the cache yet, up to the next answer.
    func nextTurn(_ question: String) -> String { "\(endOfTurn)\n\(user)\(escape(question))\(endOfTurn)\n\(assistant)" }

    /// A user's text with the control tokens taken out: it must not open a turn or stand for a picture.
    func escape(_ question: String) -> String {
        var bytes = Array(question.utf8)  // by bytes: a combining accent behind a token must not hide it
        for control in [image, "<|im_start|>", endOfTurn, "<|endoftext|>"] { bytes.replace(Array(control.utf8), with: [0x20]) }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Ids of a prompt: each piece between `image` marks is tokenized on its own, each mark becomes the placeholder.
    func tokenize(_ text: String, _ tokenizer: any Tokenizing) throws -> [Int] {
        let pieces = Array(text.utf8).split(separator: Array(image.utf8), omittingEmptySubsequences: false)
        var ids: [Int] = []
        for (number, piece) in pieces.enumerated() {
            if number > 0 { ids.append(placeholderID) }
            if !piece.isEmpty { ids += try tokenizer.encode(String(decoding: piece, as: UTF8.self)) }
        }
        return ids
    }

    /// The ids before and after the run of placeholders. Throws `promptInvalid` unless there is one run.
    func splitAtVisualTokens(_ ids: [Int]) throws -> (before: [Int], after: [Int]) {
        guard let first = ids.firstIndex(of: placeholderID), let last = ids.lastIndex(of: placeholderID) else {
            throw VideoGPTError.promptInvalid(
                "the prompt has no visual placeholder (id \(placeholderID)): put one where the video belongs")
        }
        guard ids[first...last].allSatisfy({ $0 == placeholderID }) else {
            throw VideoGPTError.promptInvalid("the visual placeholders (id \(placeholderID)) must stand in one run")
        }
        return (Array(ids[..<first]), Array(ids[(last + 1)...]))
    }

    /// The ids before the visual tokens, the same in every first turn.
    public func openingIDs(_ tokenizer: any Tokenizing) throws -> [Int] {
        try splitAtVisualTokens(tokenize(firstTurn(""), tokenizer)).before
    }

    /// The ids behind the visual tokens of a first turn.
    public func questionIDs(_ question: String, _ tokenizer: any Tokenizing) throws -> [Int] {
        try splitAtVisualTokens(tokenize(firstTurn(question), tokenizer)).after
    }

    /// The ids of a later turn.
    public func laterIDs(_ question: String, _ tokenizer: any Tokenizing) throws -> [Int] {
        try tokenize(nextTurn(question), tokenizer)
    }
}
