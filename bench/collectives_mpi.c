// Open MPI's side of bench/collectives.ts: rank 0 reads `operation bytes iterations`, all run as many unmeasured and then
// measured, and it answers with the nanoseconds of one, the slowest rank's.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Rank 0 reads a command and sends it on. The others sleep while they wait: MPI's own waiting would take a core from
// whoever is being measured.
static int next_command(int rank, int size, char* line, int length) {
  if (rank == 0) {
    if (fgets(line, length, stdin) == NULL) line[0] = '\0';
    for (int other = 1; other < size; ++other) MPI_Send(line, length, MPI_CHAR, other, 0, MPI_COMM_WORLD);
  } else {
    int arrived = 0;
    while (!arrived) {
      MPI_Iprobe(0, 0, MPI_COMM_WORLD, &arrived, MPI_STATUS_IGNORE);
      if (!arrived) usleep(500);
    }
    MPI_Recv(line, length, MPI_CHAR, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  }
  return line[0] != '\0';
}

int main(int count, char** arguments) {
  MPI_Init(&count, &arguments);
  int rank, size, bytes, iterations;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  char line[128], operation[64];
  while (next_command(rank, size, line, sizeof line) &&
         sscanf(line, "%63s %d %d", operation, &bytes, &iterations) == 3) {
    const int whole_count = bytes / 4, shard_count = bytes / 4 / size;
    float* whole = malloc((size_t)whole_count * 4);
    float* shard = malloc((size_t)whole_count * 4);
    for (int i = 0; i < whole_count; ++i) whole[i] = shard[i] = 1;
    double start = 0;
    for (int i = -iterations; i < iterations; ++i) {
      if (i == 0) {
        MPI_Barrier(MPI_COMM_WORLD);
        start = MPI_Wtime();
      }
      if (strcmp(operation, "all_reduce") == 0) {
        MPI_Allreduce(MPI_IN_PLACE, whole, whole_count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      } else if (strcmp(operation, "all_gather") == 0) {
        MPI_Allgather(shard, shard_count, MPI_FLOAT, whole, shard_count, MPI_FLOAT, MPI_COMM_WORLD);
      } else {
        MPI_Reduce_scatter_block(whole, shard, shard_count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      }
    }
    double taken = (MPI_Wtime() - start) * 1e9 / iterations, slowest;
    MPI_Reduce(&taken, &slowest, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    if (rank == 0) {
      printf("%.1f\n", slowest);
      fflush(stdout);
    }
    free(whole);
    free(shard);
  }
  MPI_Finalize();
}
