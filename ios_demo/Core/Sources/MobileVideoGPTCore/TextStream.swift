import Foundation

/// Ids in, text out, in pieces that hold whole characters only. All pieces together are the text of all ids.
///
/// Bytes that do not yet make a character wait for the next ids; special tokens have no text. It decodes the last few ids anew at each
/// step, as the `tokenizers` library's DecodeStream does, since a tokenizer may write a token differently behind another.
public struct TextStream {
    private let tokenizer: any Tokenizing
    private var ids: [Int] = []
    private var waiting: [Int] = []
    private var prefix: [UInt8] = []
    private var prefixIDs = 0  // of `waiting` that `prefix` is the text of
    private var given = 0  // bytes

    public init(_ tokenizer: any Tokenizing) { self.tokenizer = tokenizer }

    /// The text that this id completes, often the empty string.
    public mutating func step(_ id: Int) throws -> String {
        ids.append(id)
        waiting.append(id)
        let text = Array(try tokenizer.decode(waiting).utf8)
        guard text.count > prefix.count, text.starts(with: prefix), !text.suffix(3).elementsEqual(Self.replacement) else { return "" }
        let piece = text.dropFirst(prefix.count)
        waiting.removeFirst(prefixIDs)
        prefix = Array(try tokenizer.decode(waiting).utf8)
        prefixIDs = waiting.count
        given += piece.count
        return String(decoding: piece, as: UTF8.self)
    }

    /// What still waits when no id follows: bytes that stayed half a character become U+FFFD.
    public mutating func flush() throws -> String {
        let rest = Array(try tokenizer.decode(ids).utf8).dropFirst(given)
        given += rest.count
        return String(decoding: rest, as: UTF8.self)
    }

    private static let replacement: [UInt8] = [0xEF, 0xBF, 0xBD]
}
