import XCTest

@testable import MobileVideoGPTCore

/// The text of ids as they come, and the prompt around a question.
final class TextTests: XCTestCase {
    private let tokenizer = ByteTokenizer()

    func testPiecesHoldWholeCharactersAndSumUpToTheText() throws {
        for text in ["plain", "naïve café", "日本語 🙂 👩‍👩‍👧", "e\u{301}", "\u{FFFD}x"] {
            var stream = TextStream(tokenizer)
            let pieces = try text.utf8.map { try stream.step(Int($0)) }
            XCTAssertEqual(Array((pieces.joined() + (try stream.flush())).utf8), Array(text.utf8))
            if !text.contains("\u{FFFD}") { XCTAssertFalse(pieces.joined().contains("\u{FFFD}")) }
        }
    }

    func testHalfACharacterWaitsAndIsMarkedAtTheEnd() throws {
        var stream = TextStream(tokenizer)
        XCTAssertEqual(try [97, 0xE2, 0x82].map { try stream.step($0) }, ["a", "", ""])
        XCTAssertEqual(try stream.flush(), "\u{FFFD}")
        XCTAssertEqual(try stream.flush(), "")
    }

    func testSpecialTokensHaveNoText() throws {
        var stream = TextStream(tokenizer)
        XCTAssertEqual(try [256, 97, 258, 98].map { try stream.step($0) }, ["", "a", "", "b"])
        XCTAssertEqual(try stream.flush(), "")
    }

    func testControlTokensInAQuestionBecomeSpaces() throws {
        let prompt = try Fixture.manifest().prompt
        for control in ["<image>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"] {
            XCTAssertEqual(prompt.escape("a\(control)b"), "a b")
            XCTAssertEqual(Array(prompt.escape("a\(control)\u{301}").utf8), Array("a \u{301}".utf8))  // nor behind an accent's back
            XCTAssertEqual(try prompt.questionIDs("a\(control)b", tokenizer), try prompt.questionIDs("a b", tokenizer))
            XCTAssertEqual(try prompt.laterIDs("\(control)", tokenizer), try prompt.laterIDs(" ", tokenizer))
        }
        XCTAssertEqual(prompt.escape("<|im_<image>end|>"), "<|im_ end|>")
    }

    func testEachPieceAroundTheVideoIsTokenizedByItself() throws {
        let prompt = try Fixture.manifest().prompt
        XCTAssertEqual(try prompt.tokenize("ab<image><image>c", tokenizer), [97, 98, -200, -200, 99])
        XCTAssertEqual(try prompt.openingIDs(tokenizer), tokenizer.encode("<|im_start|>s<|im_end|>\n<|im_start|>u\n"))
        XCTAssertEqual(try prompt.questionIDs("é?", tokenizer), tokenizer.encode("\né?<|im_end|>\n<|im_start|>a\n"))
    }
}
