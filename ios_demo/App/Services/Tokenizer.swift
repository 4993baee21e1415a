import Foundation
import Hub
import MobileVideoGPTCore
import Tokenizers

/// A bundle's tokenizer.json through swift-transformers. The self-test compares its ids with those of Python's `tokenizers`.
struct BundleTokenizer: Tokenizing {
    private let tokenizer: any Tokenizer

    /// Reads a byte-level BPE, which is what every checkpoint of this model family has.
    ///
    /// - Throws: `VideoGPTError.unreadableTokenizer`.
    init(reading file: URL) throws {
        let content: Any
        do {
            content = try JSONSerialization.jsonObject(with: try Data(contentsOf: file))
        } catch {
            throw VideoGPTError.unreadableTokenizer(reason: oneLine(error))
        }
        // Keys stay NSStrings: Swift's String compares by meaning and would merge tokens whose bytes differ.
        guard let data = content as? [NSString: Any], let model = data["model"] as? [NSString: Any],
            model["type"] as? String == "BPE"
        else {
            throw VideoGPTError.unreadableTokenizer(reason: "it is no byte-level BPE")
        }
        // Without this line the library would take spaces before punctuation out of answers.
        let config: Config = ["tokenizer_class": "Qwen2Tokenizer", "clean_up_tokenization_spaces": false]
        do {
            tokenizer = try AutoTokenizer.from(tokenizerConfig: config, tokenizerData: Config(data))
        } catch {
            throw VideoGPTError.unreadableTokenizer(reason: oneLine(error))
        }
        // The library stops the process at a character that the vocabulary does not have; with all bytes there is none.
        if let missing = Self.byteAlphabet.first(where: { tokenizer.convertTokenToId($0) == nil }) {
            throw VideoGPTError.unreadableTokenizer(reason: "its vocabulary lacks the byte \(missing)")
        }
    }

    func encode(_ text: String) -> [Int] { tokenizer.encode(text: text, addSpecialTokens: false) }

    func decode(_ ids: [Int]) -> String { tokenizer.decode(tokens: ids, skipSpecialTokens: true) }

    /// GPT-2's characters for the 256 bytes: printable Latin-1 stands for itself, the others for U+0100 and on.
    private static let byteAlphabet: [String] = {
        let printable = Set(0x21...0x7E).union(0xA1...0xAC).union(0xAE...0xFF)
        var next = 0x100
        return (0...0xFF).map { byte in
            if printable.contains(byte) { return scalar(byte) }
            defer { next += 1 }
            return scalar(next)
        }
    }()

    private static func scalar(_ code: Int) -> String {
        guard let scalar = Unicode.Scalar(UInt32(code)) else { preconditionFailure("U+0000 to U+01FF are scalars") }
        return String(Character(scalar))
    }
}
