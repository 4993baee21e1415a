import CoreML
import Foundation
import MobileVideoGPTCore

/// Compiled Core ML models, each kept under the SHA-256 of the package that it was made from: compiled once, whatever bundle holds it.
struct CompiledModels: Sendable {
    let folder: URL

    /// The store in Application Support, which iOS keeps and does not back up.
    static func standard() throws -> CompiledModels {
        do {
            let support = try FileManager.default.url(
                for: .applicationSupportDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
            var folder = support.appendingPathComponent("compiled-models", isDirectory: true)
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            var values = URLResourceValues()
            values.isExcludedFromBackup = true
            try folder.setResourceValues(values)
            return CompiledModels(folder: folder)
        } catch {
            throw VideoGPTError.cannotWrite(path: "Application Support", reason: oneLine(error))
        }
    }

    private func place(of sha256: String) -> URL {
        folder.appendingPathComponent("\(sha256).mlmodelc", isDirectory: true)
    }

    /// Whether a package was compiled before.
    func has(_ sha256: String) -> Bool { FileManager.default.fileExists(atPath: place(of: sha256).path) }

    /// The compiled form of a package, which is compiled if it was not before: up to minutes, the first time.
    ///
    /// - Throws: Core ML's error where it cannot compile the package, `VideoGPTError.cannotWrite` where the result cannot be kept.
    func compiled(_ package: URL, sha256: String) async throws -> URL {
        let place = place(of: sha256)
        if has(sha256) { return place }
        let fresh = try await MLModel.compileModel(at: package)
        do {
            try FileManager.default.moveItem(at: fresh, to: place)  // one step: what is in the store is whole
        } catch {
            try? FileManager.default.removeItem(at: fresh)
            throw VideoGPTError.cannotWrite(path: place.lastPathComponent, reason: oneLine(error))
        }
        return place
    }

    /// Removes one compiled form, which would not load.
    func discard(_ sha256: String) {
        try? FileManager.default.removeItem(at: place(of: sha256))
    }

    /// Removes the compiled forms of packages that no bundle on the device has any more.
    func removeAll(except kept: Set<String>) {
        let places = (try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)) ?? []
        for place in places where !kept.contains(place.deletingPathExtension().lastPathComponent) {
            try? FileManager.default.removeItem(at: place)
        }
    }
}
