// Signatures of swift-transformers' Hub that the app uses.

import Foundation

public struct Config: Sendable, ExpressibleByStringLiteral, ExpressibleByBooleanLiteral, ExpressibleByDictionaryLiteral {
    public init(_ dictionary: [NSString: Any]) { fatalError() }
    public init(stringLiteral value: String) { fatalError() }
    public init(booleanLiteral value: Bool) { fatalError() }
    public init(dictionaryLiteral elements: (BinaryDistinctString, Config)...) { fatalError() }
}

public struct BinaryDistinctString: Sendable, Hashable, ExpressibleByStringLiteral {
    public init(stringLiteral value: String) { fatalError() }
}
