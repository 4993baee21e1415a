// Signatures of UniformTypeIdentifiers that the app uses.

import Foundation

public struct UTType: Sendable, Hashable {  // objc: class UTType
    public var identifier: String { fatalError() }  // objc: identifier
    public static var movie: UTType { fatalError() }  // objc: constant UTTypeMovie
    public static var json: UTType { fatalError() }  // objc: constant UTTypeJSON
}
