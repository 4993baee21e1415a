// Signatures of CoreTransferable that the app uses; it is Swift only.

import Foundation
@_exported import UniformTypeIdentifiers

public protocol Transferable {
    associatedtype Representation: TransferRepresentation
    @TransferRepresentationBuilder<Self> static var transferRepresentation: Representation { get }
}

public protocol TransferRepresentation: Sendable {
    associatedtype Item: Transferable
}

@resultBuilder public struct TransferRepresentationBuilder<Item: Transferable> {
    public static func buildBlock<Content: TransferRepresentation>(_ content: Content) -> Content where Content.Item == Item { fatalError() }
}

public struct FileRepresentation<Item: Transferable>: TransferRepresentation {
    public init(importedContentType: UTType, shouldAttemptToOpenInPlace: Bool = false, importing: @escaping @Sendable (ReceivedTransferredFile) async throws -> Item) { fatalError() }
}

public struct ReceivedTransferredFile: Sendable {
    public let file: URL
}
