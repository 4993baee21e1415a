import Foundation

/// The one thread-like queue on which a `VideoChat` computes: not the main thread, and not one of the few that all tasks share, which
/// seconds of computing would keep from the others.
final class Worker: SerialExecutor {
    private let queue = DispatchQueue(label: "org.mobilevideogpt.worker", qos: .userInitiated)

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        queue.async { job.runSynchronously(on: self.asUnownedSerialExecutor()) }
    }

    func asUnownedSerialExecutor() -> UnownedSerialExecutor { UnownedSerialExecutor(ordinary: self) }
}
