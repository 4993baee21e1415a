package org.pytorch.executorch.annotations

/** A double of ExecuTorch's annotation: all of its Android classes are marked so. Using them needs no opting in. */
@Retention(AnnotationRetention.BINARY)
annotation class Experimental
