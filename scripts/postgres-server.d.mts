/** A server that `startPostgres` has started. */
export interface PostgresServer {
  port: number;
  folder: string;
  connectionString: string;
  restart(mode?: string): void;
  stop(): void;
}
export function freePort(): Promise<number>;
export function findPostgres(): string | undefined;
export function startPostgres(options?: { host?: string; settings?: Record<string, string | number> }): Promise<PostgresServer>;
