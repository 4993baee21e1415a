// Signatures of PhotosUI's SwiftUI part that the app uses; it is Swift only.

import CoreTransferable
import Foundation
import SwiftUI

public struct PHPickerFilter: Sendable, Equatable { public static let videos = PHPickerFilter() }

public struct PhotosPickerItem: Equatable, Hashable, Sendable {
    public func loadTransferable<T: Transferable>(type: T.Type) async throws -> T? { fatalError() }
    public struct EncodingDisambiguationPolicy: Sendable, Equatable { public static let current = EncodingDisambiguationPolicy() }
}

public struct PhotosPicker<Label: View>: Primitive {
    public init(selection: Binding<PhotosPickerItem?>, matching filter: PHPickerFilter? = nil, preferredItemEncoding: PhotosPickerItem.EncodingDisambiguationPolicy = .current, @ViewBuilder label: () -> Label) { fatalError() }
}
