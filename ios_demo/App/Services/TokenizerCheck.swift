import Foundation
import MobileVideoGPTCore

/// The bundle's golden texts through this device's tokenizer, which is a library's: core's self-test does not reach it.
struct TokenizerCheck: Sendable {
    /// Texts whose ids, pieces or rest differ from Python's.
    let differing: [String]
    let texts: Int

    var passed: Bool { differing.isEmpty }

    var line: String {
        guard let first = differing.first else { return "passed: all \(texts) texts have Python's ids" }
        return "failed: \(differing.count) of \(texts) texts differ, the first is \(first.debugDescription)"
    }

    /// nil for a bundle without golden texts. Throws `VideoGPTError.invalidGolden`, `.unreadableTokenizer`.
    static func run(_ bundle: ModelBundle) async throws -> TokenizerCheck? {
        guard let file = bundle.tokenizerURL else { return nil }
        let tokenizer = try BundleTokenizer(reading: file)
        let golden: File
        do {
            golden = try JSONDecoder().decode(File.self, from: Data(contentsOf: bundle.folder.appending(path: "golden.json")))
        } catch {
            throw VideoGPTError.invalidGolden(oneLine(error))
        }
        guard let cases = golden.tokenizer else { return nil }
        let differing = try cases.filter { one in
            var stream = TextStream(tokenizer)
            let pieces = try one.ids.map { try stream.step($0) }
            return try tokenizer.encode(one.text) != one.ids || !same(pieces, one.pieces) || !same([stream.flush()], [one.flushed])
        }
        return TokenizerCheck(differing: differing.map(\.text), texts: cases.count)
    }

    /// By bytes: Swift's String takes é and e with an accent for equal.
    private static func same(_ a: [String], _ b: [String]) -> Bool { a.map { Array($0.utf8) } == b.map { Array($0.utf8) } }

    private struct File: Decodable {
        let tokenizer: [Case]?
    }

    private struct Case: Decodable {
        let text: String
        let ids: [Int]
        let pieces: [String]
        let flushed: String
    }
}
