import Foundation
import MobileVideoGPTCore

/// Benchmarks as files in Documents/benchmarks, which the Files app shows.
enum BenchFile {
    /// Writes one line of JSON to a file of its own, named by the time. Throws `VideoGPTError.cannotWrite`.
    static func write(_ json: String) async throws -> URL {
        let name = "bench-\(Date().ISO8601Format().replacing(":", with: "")).json"
        do {
            let documents = try FileManager.default.url(for: .documentDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
            let folder = documents.appending(path: "benchmarks", directoryHint: .isDirectory)
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            let file = folder.appending(path: name)
            try Data("\(json)\n".utf8).write(to: file, options: .atomic)
            return file
        } catch {
            throw VideoGPTError.cannotWrite(path: name, reason: oneLine(error))
        }
    }
}
