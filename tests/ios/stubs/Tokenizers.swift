// Signatures of swift-transformers' Tokenizers that the app uses.

import Foundation
import Hub

public protocol Tokenizer: Sendable {
    func encode(text: String, addSpecialTokens: Bool) -> [Int]
    func decode(tokens: [Int], skipSpecialTokens: Bool) -> String
    func convertTokenToId(_ token: String) -> Int?
}

public enum AutoTokenizer {
    public static func from(tokenizerConfig: Config, tokenizerData: Config, strict: Bool = true) throws -> Tokenizer { fatalError() }
}
