import Foundation
import MobileVideoGPTCore

/// A folder that looks like a bundle, as the list shows it: its manifest, or why it cannot be read.
struct BundleSummary: Identifiable, Sendable {
    let folder: URL
    let manifest: Result<Manifest, VideoGPTError>

    var id: URL { folder }
    var folderName: String { folder.lastPathComponent }

    /// The checkpoint's name and the recipe; the folder's name where the manifest cannot be read, shortened where it is a pin.
    var title: String {
        guard case .success(let manifest) = manifest else { return shortened(folderName) }
        return "\(manifest.checkpointName), \(manifest.recipe)"
    }
}

/// The bundles on the device: folders in Documents/bundles, which the Files app and `python -m export.push` reach.
struct BundleLibrary: Sendable {
    let folder: URL
    private let hashing = CryptoKitHashing()

    /// What downloads bundles into the same folder.
    var downloads: BundleStore { BundleStore(folder: folder, hashing: hashing, transport: URLSessionTransport()) }

    /// Bytes free for what the user asked to keep.
    var freeBytes: Int {
        let keys: Set<URLResourceKey> = [.volumeAvailableCapacityForImportantUsageKey]
        return (try? folder.resourceValues(forKeys: keys).volumeAvailableCapacityForImportantUsage).flatMap { $0 }.map { Int($0) } ?? 0
    }

    /// Documents/bundles, made where it is not there.
    static func standard() throws -> BundleLibrary {
        do {
            let documents = try FileManager.default.url(for: .documentDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
            let folder = documents.appending(path: "bundles", directoryHint: .isDirectory)
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            return BundleLibrary(folder: folder)
        } catch {
            throw VideoGPTError.cannotWrite(path: "Documents/bundles", reason: oneLine(error))
        }
    }

    /// Where stamps of checked bundles are kept: in Caches, so that a copied bundle is hashed again.
    static var stamps: URL? {
        FileManager.default.urls(for: .cachesDirectory, in: .userDomainMask).first?.appending(path: "checked", directoryHint: .isDirectory)
    }

    /// All bundles by name, without downloads that are not complete. Reads the manifests, nothing else.
    func list() async -> [BundleSummary] {
        let found = try? FileManager.default.contentsOfDirectory(
            at: folder, includingPropertiesForKeys: [.isDirectoryKey], options: .skipsHiddenFiles)
        return (found ?? [])
            .filter { $0.pathExtension != "part" && (try? $0.resourceValues(forKeys: [.isDirectoryKey]).isDirectory) == true }
            .sorted { $0.lastPathComponent < $1.lastPathComponent }
            .map { folder in BundleSummary(folder: folder, manifest: readManifest(folder)) }
    }

    /// Pins of downloads that are not complete.
    func unfinished() -> [String] {
        let found = try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil, options: .skipsHiddenFiles)
        return (found ?? []).filter { $0.pathExtension == "part" }.map { $0.deletingPathExtension().lastPathComponent }.sorted()
    }

    /// Removes a bundle, and the compiled models that only it had.
    func delete(_ bundle: BundleSummary) async throws {
        do {
            try FileManager.default.removeItem(at: bundle.folder)
        } catch {
            throw VideoGPTError.cannotWrite(path: bundle.folderName, reason: oneLine(error))
        }
        try await tidy()
    }

    /// Removes the compiled models of packages that are gone.
    func tidy() async throws {
        let kept = await list().compactMap { try? $0.manifest.get() }.flatMap { $0.graphs.values.map(\.sha256) }
        try CompiledModels.standard().removeAll(except: Set(kept))
    }

    private func readManifest(_ folder: URL) -> Result<Manifest, VideoGPTError> {
        do {
            return .success(try ModelBundle.readManifest(folder, hashing: hashing))
        } catch let error as VideoGPTError {
            return .failure(error)
        } catch {
            return .failure(.unreadableFile(Manifest.fileName, reason: oneLine(error)))
        }
    }
}

/// A folder's name for a reader: of a pin's 64 digits the first twelve.
func shortened(_ name: String) -> String { name.count == 64 ? "\(name.prefix(12))…" : name }
