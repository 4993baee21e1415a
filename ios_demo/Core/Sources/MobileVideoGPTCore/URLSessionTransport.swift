import Foundation
import Synchronization

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

/// Transfers by URLSession, with a Range where a part is here already.
public struct URLSessionTransport: Transport {
    public init() {}

    public func get(
        _ url: URL, from offset: Int, begin: @escaping @Sendable (TransferStart) throws -> Void,
        receive: @escaping @Sendable (Data) throws -> Void
    ) async throws {
        var request = URLRequest(url: url, cachePolicy: .reloadIgnoringLocalCacheData)
        request.setValue("identity", forHTTPHeaderField: "Accept-Encoding")  // offsets count the file's bytes, not packed ones
        if offset > 0 { request.setValue("bytes=\(offset)-", forHTTPHeaderField: "Range") }
        let transfer = Transfer(offset: offset, begin: begin, receive: receive)
        let ready = request
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { transfer.start(ready, $0) }
        } onCancel: {
            transfer.cancel()
        }
    }
}

/// One request. URLSession calls it on one queue and waits for it, so that a file is written as fast as it comes and no faster.
private final class Transfer: NSObject, URLSessionDataDelegate, Sendable {
    private struct State {
        var task: URLSessionTask?
        var continuation: CheckedContinuation<Void, any Error>?
        var cancelled = false
        var error: (any Error)?  // ours, which ended the transfer
    }

    private let offset: Int
    private let begin: @Sendable (TransferStart) throws -> Void
    private let receive: @Sendable (Data) throws -> Void
    private let state = Mutex(State())

    init(
        offset: Int, begin: @escaping @Sendable (TransferStart) throws -> Void, receive: @escaping @Sendable (Data) throws -> Void
    ) {
        self.offset = offset
        self.begin = begin
        self.receive = receive
    }

    func start(_ request: URLRequest, _ continuation: CheckedContinuation<Void, any Error>) {
        let session = URLSession(configuration: .ephemeral, delegate: self, delegateQueue: nil)
        let task = session.dataTask(with: request)
        let cancelled = state.withLock { state in
            state.task = task
            state.continuation = continuation
            return state.cancelled
        }
        task.resume()
        session.finishTasksAndInvalidate()
        if cancelled { task.cancel() }
    }

    func cancel() {
        let task = state.withLock { state in
            state.cancelled = true
            return state.task
        }
        task?.cancel()
    }

    func urlSession(
        _ session: URLSession, dataTask: URLSessionDataTask, didReceive response: URLResponse,
        completionHandler: @escaping @Sendable (URLSession.ResponseDisposition) -> Void
    ) {
        let answer = response as? HTTPURLResponse
        let status = answer?.statusCode ?? 0
        let first = status == 206 ? Self.firstByte(answer) ?? offset : 0
        completionHandler(attempt { try begin(TransferStart(status: status, offset: first)) } ? .allow : .cancel)
    }

    func urlSession(_ session: URLSession, dataTask: URLSessionDataTask, didReceive data: Data) {
        if !attempt({ try receive(data) }) { dataTask.cancel() }
    }

    func urlSession(_ session: URLSession, task: URLSessionTask, didCompleteWithError error: (any Error)?) {
        let (continuation, ours, cancelled) = state.withLock { state in
            defer { state.continuation = nil }
            return (state.continuation, state.error, state.cancelled)
        }
        switch (ours, cancelled, error) {
        case (let ours?, _, _): continuation?.resume(throwing: ours)
        case (_, true, _): continuation?.resume(throwing: CancellationError())
        case (_, _, let error?): continuation?.resume(throwing: VideoGPTError.offline(reason: oneLine(error)))
        default: continuation?.resume()
        }
    }

    /// Runs what may fail; false where it did, now or before.
    private func attempt(_ work: () throws -> Void) -> Bool {
        guard state.withLock({ $0.error == nil }) else { return false }
        do {
            try work()
            return true
        } catch {
            state.withLock { $0.error = error }
            return false
        }
    }

    /// The number behind `bytes ` in Content-Range.
    private static func firstByte(_ answer: HTTPURLResponse?) -> Int? {
        let range = answer?.value(forHTTPHeaderField: "Content-Range") ?? ""
        guard let number = range.firstMatch(of: /bytes +([0-9]+)-/)?.1 else { return nil }
        return Int(number)
    }
}
